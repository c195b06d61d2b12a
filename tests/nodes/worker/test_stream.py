"""Stop strings are found however the text is cut, and failures are told in a line."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.nodes.engine.grammar import GrammarError
from airdraft.nodes.messages import StreamFailedNotice
from airdraft.nodes.worker.stream import StopMatcher, StreamId, failed_by

stop_strings = st.lists(st.text("ab", max_size=4), max_size=3)


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


@given(cut_texts(), stop_strings)
@example(("5 €".encode(), [b"5 \xe2", b"\x82", b"\xac"]), ["€"])
def test_shows_the_text_before_the_stop_that_ends_first_however_it_is_cut(cut, stops):
    """An empty stop string means nothing."""
    text, pieces = cut
    found = [stop.encode() for stop in stops if stop and stop.encode() in text]
    _, start = min(
        ((text.find(stop) + len(stop), text.find(stop)) for stop in found), default=(0, len(text))
    )
    shown, stopped = show(stops, pieces)
    assert stopped == bool(found)
    assert b"".join(shown) == text[:start]


@pytest.mark.parametrize(
    ("is_request_bad", "code"), [(True, "bad_request"), (False, "unavailable")]
)
def test_a_failure_says_whose_it_is_in_a_line_that_fits(is_request_bad: bool, code: str) -> None:
    """A bad grammar is the client's fault, a missing library that of the node."""
    error = GrammarError("x" * 2000, is_request_bad=is_request_bad)
    assert failed_by(StreamId(1), 2, error) == StreamFailedNotice(1, 2, "x" * 1024, code)
