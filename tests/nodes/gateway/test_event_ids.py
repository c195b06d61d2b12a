from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.errors import ApiError
from nodes.gateway.event_ids import Told
from tests.nodes.gateway.fake_mesh import scored

TAG = "0123456789ab"
TOKEN = ScoredToken(scored("x", -1.0))


def event_id(line: bytes) -> bytes:
    found = re.fullmatch(rb"id: (\S+)\n", line)
    assert found is not None
    return found[1]


def cut(text: str, points: Iterable[int], num_tokens: int, index: int = 0) -> list[Delta]:
    """A choice whose text comes in these pieces, its tokens with the first of them."""
    at = [0, *sorted(points), len(text)]
    pieces = [text[low:high] for low, high in itertools.pairwise(at)]
    return [
        Delta(
            index,
            piece,
            (TOKEN,) * (num_tokens if number == 0 else 0),
            number == 0,
            "stop" if number == len(pieces) - 1 else None,
        )
        for number, piece in enumerate(pieces)
    ]


def tell(told: Told, deltas: Iterable[Delta]) -> list[bytes]:
    return [
        told.line(d.index, d.text, len(d.tokens), ends=d.finish_reason is not None) for d in deltas
    ]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(texts, st.data())
def test_after_any_event_the_rest_of_other_pieces_makes_the_same_text(
    text: str, data: st.DataObject
) -> None:
    points = st.lists(st.integers(0, len(text)), max_size=6)
    first = cut(text, data.draw(points), 4)
    lines = tell(Told(TAG, 1), first)
    last = data.draw(st.integers(0, len(first) - 1))
    known = "".join(delta.text for delta in first[: last + 1])
    resumed = Told.of_header(event_id(lines[last]), TAG, 1)
    second = [resumed.rest(delta) for delta in cut(text, data.draw(points), 4)]
    assert known + "".join(delta.text for delta in second) == text
    assert sum(len(delta.tokens) for delta in second) == 0
    assert sum(len(delta.told_tokens) for delta in second) == 4
    assert not any(delta.begins for delta in second)
    has_ended = first[last].finish_reason is not None
    assert [d.finish_reason for d in second if d.finish_reason] == ([] if has_ended else ["stop"])
    # A third time: ids of a stream that goes on are those of one that was never cut.
    (final,) = tell(resumed, [d for d in second if not d.is_empty])[-1:] or [lines[last]]
    assert event_id(final) == event_id(lines[-1])


def test_choices_have_positions_of_their_own() -> None:
    told = Told(TAG, 3)
    begins, more = told.line(1, "ab", 2), told.line(0, "c", ends=True)
    assert event_id(begins) == b"0123456789ab:-,2.2.9e83486d,-"
    assert event_id(more) == b"0123456789ab:1.0.06b9df6f.end,2.2.9e83486d,-"
    resumed = Told.of_header(event_id(more), TAG, 3)
    assert resumed.rest(Delta(0, "c", (), True, "stop")).is_empty
    new = Delta(2, "z", (), True)
    assert resumed.rest(new) == new
    assert resumed.rest(Delta(1, "abd", (TOKEN,) * 3, True)) == Delta(
        1, "d", (TOKEN,), False, None, (TOKEN,) * 2
    )


def test_an_id_tells_what_the_text_was_made_by() -> None:
    told = Told(TAG, 1)
    told.fingerprint = "fp_01234567_3fa9c1d2~a1b2c3d4"
    begun = event_id(told.line(0, "c"))
    assert begun == b"0123456789ab@fp_01234567_3fa9c1d2~a1b2c3d4:1.0.06b9df6f"
    assert Told.of_header(begun, TAG, 1).fingerprint == told.fingerprint
    assert Told.of_header(b"0123456789ab:1.0.06b9df6f", TAG, 1).fingerprint == ""


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"7",
        b"0123456789ab",
        b"0123456789ab:",
        b"0123456789ab:1.0.06b9df6f,-",
        b"0123456789ac:1.0.06b9df6f",
        b"0123456789ab:1.0.06b9df6",
        b"0123456789ab:1.0.06b9df6f.ended",
        b"0123456789ab:-1.0.06b9df6f",
        b"0123456789ab@fp_a:1.0.06b9df6f",
        b"0123456789ab@x:1.0.06b9df6f",
        b"0123456789ac@fp_a_b:1.0.06b9df6f",
        b"0123456789ab:1.0.06B9DF6F",
        b"0123456789ab:99999999999.0.06b9df6f",
        "0123456789ab:\u0661.0.06b9df6f".encode(),
        b"0123456789ab:1.0.06b9df6f" + b"," * 10_000,
        b"\xff\x00",
    ],
)
def test_what_is_no_id_of_the_request_is_refused(found: bytes) -> None:
    with pytest.raises(ApiError, match="Last-Event-ID") as caught:
        Told.of_header(found, TAG, 1)
    assert (caught.value.status, caught.value.param) == (400, "Last-Event-ID")


@pytest.mark.parametrize(
    ("deltas", "has_ended"),
    [
        ([Delta(0, "aX", (), True), Delta(0, "c", (), False, "stop")], False),
        ([Delta(0, "a", (), True, "stop")], False),
        ([Delta(0, "", (), True, "stop")], False),
        ([Delta(0, "abc", (), True)], True),
    ],
    ids=["other text", "shorter", "none", "goes on after its end"],
)
def test_another_text_is_noticed_before_any_of_it_is_told(
    deltas: list[Delta], has_ended: bool
) -> None:
    line = Told(TAG, 1).line(0, "ab", ends=has_ended)
    resumed = Told.of_header(event_id(line), TAG, 1)
    with pytest.raises(ApiError, match="cannot be generated again") as caught:
        [resumed.rest(delta) for delta in deltas]
    assert (caught.value.status, caught.value.code) == (412, "text_differs")
