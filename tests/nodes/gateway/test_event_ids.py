from __future__ import annotations

import re

import pytest

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
        b"0123456789ab:",
        b"0123456789ab:1.0.06b9df6f,-",
        b"0123456789ac:1.0.06b9df6f",
        b"0123456789ab:1.0.06b9df6",
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
