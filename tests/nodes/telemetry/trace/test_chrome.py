from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.telemetry.trace.chrome import chrome_trace
from nodes.telemetry.trace.records import PassRecord, Record
from policies.plan import Batch
from tests.nodes.telemetry.trace.examples import FLOW, FOLLOWED, GUESSES, OTHERS, PASS, PLAN

COORDINATOR, NODE, TARGET = "coordinator, for t", "draft node a", "target t"


Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A span as a viewer shows it, or a moment. Times are the coordinator's."""

    process: str
    thread: str
    name: str
    start_s: float
    end_s: float
    notes: dict[str, Any]


def events_of(records: Sequence[Record]) -> list[Event]:
    events: list[Event] = json.loads(json.dumps(chrome_trace(records), allow_nan=False))[
        "traceEvents"
    ]
    return events


def spans_of(records: Sequence[Record]) -> list[Span]:
    """The spans by their start. A message at a known time shows at which time the file begins."""
    events = events_of((replace(GUESSES, at_s=10.0, node="begin"), *records))
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    drawn = [event for event in events if event["ph"] in "Xi"]
    (origin_s,) = (10.0 - e["ts"] / 1e6 for e in drawn if processes[e["pid"]] == "draft node begin")
    return [
        Span(
            processes[e["pid"]],
            threads[e["tid"]],
            e["name"],
            round(origin_s + e["ts"] / 1e6, 6),
            round(origin_s + (e["ts"] + e.get("dur", 0)) / 1e6, 6),
            e.get("args", {}),
        )
        for e in drawn
        if processes[e["pid"]] != "draft node begin"
    ]


def named(spans: list[Span], thread: str) -> list[Span]:
    return [span for span in spans if span.thread == thread]


def times(span: Span) -> tuple[float, float]:
    return span.start_s, span.end_s


def test_guesses_a_pass_a_plan_and_a_follower_are_spans_of_their_tracks() -> None:
    spans = spans_of(FLOW)
    assert [(span.process, span.thread, span.name) for span in spans] == [
        (COORDINATOR, "plan in force", "open flow"),
        (COORDINATOR, "stream 1", "followed by a"),
        (NODE, "guesses", "7 guesses"),
        (TARGET, "pass", "9 tokens"),
    ]
    plan, following, message, verified = spans
    assert times(message) == (10.02, 10.02)
    assert message.notes == {"streams": 2, "for": "t"}
    # Of 60 ms, reported at 10.12 over a link of 2 ms.
    assert times(verified) == (10.059, 10.119)
    # What is open at the end of the recording ends there.
    assert times(plan) == (10.0, 10.12)
    assert times(following) == (10.0, 10.12)


def test_a_pass_tells_what_became_of_its_guesses() -> None:
    (verified,) = spans_of((replace(PASS, num_read=32),))
    # Texts that are read beside are told, too.
    assert verified.name == "41 tokens"
    assert verified.notes == {
        "pass_ms": 60.0,
        "predicted_ms": 50.0,
        "streams": [1, 2],
        "committed": 4,
        "guesses": 7,
        "accepted": 2,
        "looked_up": 3,
        "offered": 6,
        "late": 1,
        "best_chances": {"1": 0.8},
        "prompt_tokens": 32,
    }


def test_a_plan_tells_both_prices_and_which_way_is_in_force() -> None:
    (plan,) = spans_of((replace(PLAN, batches=(Batch((1, 2), (8, 4)),)),))
    assert PLAN.prediction is not None
    assert plan.notes["in_force"] == "open flow"
    assert plan.notes["open_price_ms"] == pytest.approx(PLAN.open_price_s * 1e3, abs=1e-3)
    assert plan.notes["groups_price_ms"] == pytest.approx(PLAN.prediction.price_s * 1e3, abs=1e-3)
    assert plan.notes["groups"] == [{"1": 8, "2": 4}]
    assert plan.notes["policy"] == "joint"


def test_groups_in_force_are_called_by_their_guesses() -> None:
    grouped = replace(PLAN, is_grouped=True)
    both = replace(grouped, batches=(Batch((1, 2), (4, 3)), Batch((5,), (1,))), plain=(7, 8))
    none = replace(grouped, batches=(), plain=(1,))
    unknown = replace(none, prediction=None)
    spans = spans_of([both, none, unknown])
    assert [span.name for span in spans] == ["groups: 4 3 | 1", "groups: none", "groups: none"]
    assert spans[0].notes["plain"] == [7, 8]
    assert "bound" not in spans[2].notes


def test_each_plan_lasts_until_the_next_one() -> None:
    later = [replace(PLAN, at_s=at_s) for at_s in (10.0, 11.0, 11.5)]
    other = replace(PLAN, at_s=11.2, target="u")
    spans = spans_of([later[0], later[1], other, later[2]])
    found = [(span.process, span.start_s, span.end_s) for span in spans]
    assert found == [
        (COORDINATOR, 10.0, 11.0),
        (COORDINATOR, 11.0, 11.5),
        ("coordinator, for u", 11.2, 11.5),
        (COORDINATOR, 11.5, 11.5),
    ]


def test_a_following_lasts_until_it_ends_or_another_one_begins() -> None:
    other = replace(FOLLOWED, at_s=10.1, node="b")
    first, second = named(spans_of((FOLLOWED, other, *OTHERS)), "stream 1")
    assert (first.name, times(first)) == ("followed by a", (10.0, 10.1))
    assert (second.name, times(second)) == ("followed by b", (10.1, 10.2))
    assert second.notes == {"until": "a sent no guesses in time"}
    # What began before the recording is not known.
    assert named(spans_of(OTHERS), "stream 1") == []


def test_nothing_lies_outside_of_what_the_coordinator_saw() -> None:
    (verified,) = named(spans_of((replace(PASS, pass_s=90.0, rtt_s=1.0),)), "pass")
    assert verified.end_s <= PASS.at_s


def test_passes_follow_one_another() -> None:
    first, second = spans_of((PASS, replace(PASS, at_s=10.15)))
    assert first.end_s == second.start_s
    assert second.end_s == 10.15
    # Another target's passes are beside them.
    both = spans_of((PASS, replace(PASS, at_s=10.15, target="u")))
    (other,) = (span for span in both if span.process == "target u")
    assert other.start_s < first.end_s


# -- as a file of events --------------------------------------------------------------------------


def check(events: list[Event]) -> None:
    """What viewers ask of a file: numbers, names of all tracks, spans that nest."""
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["name"] == "process_name"}
    spans = defaultdict[tuple[int, int], list[tuple[int, int]]](list)
    for event in events:
        assert event["ph"] in "XiCM"
        assert type(event["pid"]) is type(event["tid"]) is type(event["ts"]) is int
        assert event["ts"] >= 0
        if event["ph"] != "M":
            assert (event["pid"], event["tid"]) in named
            assert event["pid"] in processes
        if event["ph"] == "X":
            assert type(event["dur"]) is int
            assert event["dur"] >= 0
            place = event["pid"], event["tid"]
            spans[place].append((event["ts"], event["ts"] + event["dur"]))
    for found in spans.values():
        for (start, end), (other_start, other_end) in itertools.combinations(sorted(found), 2):
            assert end <= other_start or other_end <= end or start == other_start


def test_counters_are_sums_of_a_quarter_of_a_second() -> None:
    """Steps begin at 10.0: four tokens by 10.12, one by 10.3."""
    events = events_of((*FLOW, *OTHERS))
    rates = [(e["ts"], e["args"]["tokens/s"]) for e in events if e["name"] == "tokens/s"]
    assert rates == [(0, 16.0), (250_000, 4.0), (500_000, 0.0)]
    shares = [(e["ts"], e["args"]["acceptance"]) for e in events if e["name"] == "acceptance"]
    assert shares == [(0, 2 / 7)]
    assert events_of(()) == []


def test_a_draft_node_and_two_targets_share_no_track() -> None:
    other = [replace(record, target="u") for record in (FOLLOWED, GUESSES, PASS)]
    events = events_of((*FLOW, *other))
    check(events)
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    named = [e for e in events if e["name"] == "process_name"]
    named.sort(key=lambda event: order[event["pid"]])
    # In the order of the way of a guess.
    assert [event["args"]["name"] for event in named] == [
        *("coordinator, for t", "coordinator, for u"),
        *("draft node a", "target t", "target u"),
    ]
    moments = [e for e in events if e["ph"] == "i"]
    assert [moment["args"]["for"] for moment in moments] == ["t", "u"]


@given(data=st.data())
def test_any_records_make_a_file(data: st.DataObject) -> None:
    """Records in any order and with any times, as nodes may say what they like."""
    seconds = st.floats(0, 2) | st.just(3600.0)
    records = [
        replace(record, at_s=10.0 + data.draw(st.floats(0, 2)))
        for record in data.draw(st.lists(st.sampled_from((*FLOW, *OTHERS)), max_size=12))
    ]
    records = [
        replace(r, pass_s=data.draw(seconds), rtt_s=data.draw(seconds))
        if isinstance(r, PassRecord)
        else r
        for r in records
    ]
    check(events_of(tuple(sorted(records, key=lambda record: record.at_s))))
