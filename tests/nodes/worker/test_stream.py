"""Stop strings are found however the text is cut, and nothing of them is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.worker.stream import StopMatcher

EURO = "€".encode()
letters = st.text("ab", min_size=1, max_size=4)


@st.composite
def cut_texts(draw):
    """A text over few letters and the pieces it arrives in."""
    text = draw(st.text("abc", max_size=30)).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def show(stops, pieces):
    """What is shown of the pieces one after the other, and whether a stop string came.

    Nothing is held back but what may begin a stop string.
    """
    matcher = StopMatcher(tuple(stops))
    shown, arrived = [], b""
    for piece in pieces:
        arrived += piece
        text, stopped = matcher.push(piece)
        shown.append(text)
        if stopped:
            return shown, True
        assert arrived.startswith(b"".join(shown))
        held = arrived[len(b"".join(shown)) :]
        assert not held or any(stop.encode().startswith(held) for stop in stops)
    return [*shown, matcher.flush()], False


@given(cut_texts(), st.lists(letters, max_size=3))
def test_shows_the_text_before_the_stop_that_ends_first_however_it_is_cut(cut, stops):
    text, pieces = cut
    found = [stop.encode() for stop in stops if stop.encode() in text]
    _, start = min(
        ((text.find(stop) + len(stop), text.find(stop)) for stop in found),
        default=(0, len(text)),
    )
    shown, stopped = show(stops, pieces)
    assert stopped == bool(found)
    assert b"".join(shown) == text[:start]


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], [b"ab", b"c"], ([b"ab", b"c", b""], False)),
        ([""], [b"ab"], ([b"ab", b""], False)),
        (["\n\n"], [b"a\n", b"b\n", b"\nc"], ([b"a", b"\nb", b""], True)),
        (["stop"], [b"say st", b"op now"], ([b"say ", b""], True)),
        (["stop"], [b"say st", b"ay"], ([b"say ", b"stay", b""], False)),
        (["stop"], [b"say st"], ([b"say ", b"st"], False)),
        (["aab"], [b"aa", b"ab"], ([b"", b"a"], True)),
        (["x", "a"], [b"bax"], ([b"b"], True)),
        # A stop may be cut inside a character.
        (["€"], [b"5 " + EURO[:2], EURO[2:]], ([b"5 ", b""], True)),
        (["€"], [b"5 " + EURO[:2], b"\x80"], ([b"5 ", EURO[:2] + b"\x80", b""], False)),
    ],
)
def test_pieces_and_what_is_shown_of_them(stops, pieces, expected):
    assert show(stops, pieces) == expected
