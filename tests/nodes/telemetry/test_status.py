"""The status document through its text and back."""

import json
import math
from dataclasses import replace

import pytest

from airdraft.nodes.telemetry.status import decode_status, encode_status, finite
from tests.nodes.status_examples import STATUS


def test_a_status_comes_back_equal_and_has_every_field_even_where_it_says_nothing() -> None:
    assert decode_status(encode_status(STATUS)) == STATUS
    found = json.loads(encode_status(STATUS))
    assert found["nodes"][0]["rate_bps"] is None
    assert found["streams"][0]["reason"] == ""
    assert set(found) == set(STATUS.__slots__)


def test_what_is_too_long_is_cut_and_how_many_there_are_is_still_told() -> None:
    streams = tuple(replace(STATUS.streams[0], stream_id=k) for k in range(300))
    spans = STATUS.targets[0].spans * 300
    target = replace(STATUS.targets[0], spans=spans)
    long = replace(STATUS, streams=streams, num_streams=300, targets=(target,))
    assert len(encode_status(long)) > 50_000
    data = encode_status(long, 50_000)
    assert len(data) <= 50_000
    found = decode_status(data)
    assert found.num_streams == 300
    assert found.streams == streams[: len(found.streams)]
    assert 0 < len(found.streams) < 300
    assert 0 < len(found.targets[0].spans) < len(spans)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"cluster": 1}', b"\xff"])
def test_what_is_no_status_is_refused_with_a_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_status(data)


def test_what_has_no_limit_is_not_told() -> None:
    assert finite(math.inf) is finite(math.nan) is finite(None) is None
    assert finite(2.5) == 2.5
    found = decode_status(encode_status(replace(STATUS, at_s=math.nan, uptime_s=math.inf)))
    assert (found.at_s, found.uptime_s) == (0.0, 0.0)


def test_numbers_are_told_to_a_millionth() -> None:
    assert decode_status(encode_status(replace(STATUS, at_s=1.23456789))).at_s == 1.234568
