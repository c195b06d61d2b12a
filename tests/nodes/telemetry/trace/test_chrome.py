from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodes.telemetry.trace.chrome import chrome_trace
from nodes.telemetry.trace.records import PassRecord, Record
from tests.nodes.telemetry.trace.examples import FLOW, FOLLOWED, GUESSES, OTHERS, PASS

Event = dict[str, Any]


def events_of(records: tuple[Record, ...]) -> list[Event]:
    events: list[Event] = json.loads(json.dumps(chrome_trace(records), allow_nan=False))[
        "traceEvents"
    ]
    return events


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


def names(events: list[Event], kind: str) -> set[str]:
    return {event["args"]["name"] for event in events if event["name"] == kind}


def test_messages_with_guesses_are_moments_and_passes_last() -> None:
    events = events_of((*FLOW, *OTHERS))
    check(events)
    expected = {"plan in force", "stream 1", "stream 2", "guesses", "pass"}
    assert names(events, "thread_name") == expected
    # The plan begins everything.
    assert min(e["ts"] for e in events if e["ph"] == "X") == 0
    (message,) = [event for event in events if event["name"] == "7 guesses"]
    assert (message["ph"], message["ts"]) == ("i", 20_000)
    (verified,) = [event for event in events if event["name"] == "9 tokens"]
    assert (verified["ph"], verified["dur"]) == ("X", 60_000)
    assert verified["args"]["guesses"] == 7


def test_counters_are_sums_of_a_quarter_of_a_second() -> None:
    """Steps begin at 10.0: four tokens by 10.12, one by 10.3."""
    events = events_of((*FLOW, *OTHERS))
    rates = [(e["ts"], e["args"]["tokens/s"]) for e in events if e["name"] == "tokens/s"]
    assert rates == [(0, 16.0), (250_000, 4.0), (500_000, 0.0)]
    shares = [(e["ts"], e["args"]["acceptance"]) for e in events if e["name"] == "acceptance"]
    assert shares == [(0, 2 / 7)]
    assert events_of(()) == []


def test_processes_are_in_the_order_of_the_way_of_a_guess() -> None:
    events = events_of(FLOW)
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    named = [e for e in events if e["name"] == "process_name"]
    named.sort(key=lambda event: order[event["pid"]])
    assert [event["args"]["name"] for event in named] == [
        *("coordinator, for t", "draft node a", "target t")
    ]


def test_a_draft_node_and_two_targets_share_no_track() -> None:
    other = [replace(record, target="u") for record in (FOLLOWED, GUESSES, PASS)]
    events = events_of((*FLOW, *other))
    check(events)
    assert names(events, "process_name") == {
        *("coordinator, for t", "coordinator, for u"),
        *("draft node a", "target t", "target u"),
    }
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
