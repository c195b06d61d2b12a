import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.mesh.json_form import as_object, from_object
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import DraftView, Link, Observation, StreamView
from tests.policies.instances import observation


@dataclass(frozen=True, slots=True)
class Inner:
    count: int
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Outer:
    stream_id: StreamId
    items: tuple[Inner, ...] = ()
    one: Inner | None = None
    name: str = ""
    is_on: bool = False
    counts: dict[str, Inner] | None = None


def through_text(value: Any) -> Any:
    return json.loads(json.dumps(as_object(value), allow_nan=False))


@given(seed=st.integers(0, 2**32), num_streams=st.integers(0, 8), target_on_air=st.booleans())
def test_observations_come_back_equal(seed: int, num_streams: int, target_on_air: bool) -> None:
    seen = observation(seed, num_streams, target_on_air=target_on_air)
    assert from_object(Observation, through_text(seen)) == seen


def test_fields_with_their_defaults_are_left_out() -> None:
    assert as_object(StreamView(7, 0.25, 3)) == {"stream_id": 7, "alpha": 0.25, "tokens_left": 3}
    assert as_object(Link()) == {}
    counts = {"a": Inner(2), "b": Inner(3)}
    value = Outer(StreamId(1), (Inner(2), Inner(3, 0.25)), Inner(4), "x", True, counts)
    assert as_object(value) == {
        "stream_id": 1,
        "items": [{"count": 2}, {"count": 3, "share": 0.25}],
        "one": {"count": 4},
        "name": "x",
        "is_on": True,
        "counts": {"a": {"count": 2}, "b": {"count": 3}},
    }
    assert from_object(Outer, through_text(value)) == value


def test_infinity_is_a_text_and_whole_numbers_are_read_where_others_may_stand() -> None:
    assert as_object(Inner(1, math.inf)) == {"count": 1, "share": "inf"}
    assert from_object(Inner, {"count": 1, "share": "inf"}) == Inner(1, math.inf)
    share = from_object(Inner, {"count": 1, "share": 2}).share
    assert (share, type(share)) == (2.0, float)


COSTS = {"sizes": [1], "seconds": [0.1]}


@pytest.mark.parametrize(
    ("cls", "value", "message"),
    [
        (Inner, [], "Inner is not an object"),
        (Inner, {}, "count is missing"),
        (Inner, {"count": 1, "extra": 2}, "Inner has no field extra"),
        (Inner, {"count": True}, "count is not of type int"),
        (Inner, {"count": 1.0}, "count is not of type int"),
        (Inner, {"count": 1, "share": "much"}, "share is not a number"),
        (Inner, {"count": 1, "share": True}, "share is not a number"),
        (Outer, {"stream_id": "1"}, "stream_id is not of type int"),
        (Outer, {"stream_id": 1, "items": {}}, "items is not a list"),
        (Outer, {"stream_id": 1, "items": [{"count": 1}, 2]}, "items[1] is not an object"),
        (Outer, {"stream_id": 1, "one": {"count": None}}, "one.count is not of type int"),
        (Outer, {"stream_id": 1, "counts": []}, "counts is not an object"),
        (Outer, {"stream_id": 1, "counts": {"a": {"count": "x"}}}, "counts.a.count is not of type"),
        (CostTable, {"sizes": [2, 1], "seconds": [1, 1]}, "CostTable: sizes (2, 1) are not"),
        (NodeCosts, {"decode": COSTS, "prefill": {"sizes": [], "seconds": []}}, "prefill: a cost"),
        (
            DraftView,
            {"name": "a", "costs": {"decode": COSTS, "prefill": COSTS}, "link": {"rate_bps": -1}},
            "link: the rate of a link",
        ),
    ],
)
def test_what_does_not_fit_is_named(cls: type, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        from_object(cls, value)
    assert str(caught.value).startswith(message)
