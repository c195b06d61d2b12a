from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodes.trace.chrome import chrome_trace
from nodes.trace.records import LapRecord, PassRecord, Record, RoundRecord
from tests.nodes.trace.examples import OTHERS, ROUND

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
        assert event["ph"] in "XiCMstf"
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
        for start, end in found:
            for other_start, other_end in found:
                is_apart = end <= other_start or other_end <= start
                is_inside = other_start <= start and end <= other_end
                holds = start <= other_start and other_end <= end
                assert is_apart or is_inside or holds


def thread_names(events: list[Event]) -> set[str]:
    return {e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_a_round_has_tracks_spans_and_arrows() -> None:
    events = events_of((*ROUND, *OTHERS))
    check(events)
    expected = {"plan in force", "batch 1", "draft", "link to a", "pass", "trials"}
    assert thread_names(events) == expected
    arrows = [e for e in events if e["ph"] in "stf"]
    assert [(a["ph"], a["id"]) for a in arrows] == [("s", "t/7"), ("t", "t/7"), ("f", "t/7")]
    starts = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
    assert {(a["pid"], a["tid"], a["ts"]) for a in arrows} <= starts
    assert [a["ts"] for a in arrows] == sorted(a["ts"] for a in arrows)
    # The round's first span begins everything.
    assert min(e["ts"] for e in events if e["ph"] == "X") == 0


def test_counters_are_sums_of_a_quarter_of_a_second() -> None:
    """Steps begin at 10.0: four tokens by 10.12, one by 10.3."""
    events = events_of((*ROUND, *OTHERS))
    rates = [(e["ts"], e["args"]["tokens/s"]) for e in events if e["name"] == "tokens/s"]
    assert rates == [(0, 16.0), (250_000, 4.0), (500_000, 0.0)]
    shares = [(e["ts"], e["args"]["acceptance"]) for e in events if e["name"] == "acceptance"]
    assert shares == [(0, 2 / 7)]


def test_an_empty_trace_is_a_file_too() -> None:
    assert events_of(()) == []


def test_rounds_that_overlap_get_lanes() -> None:
    begun = ROUND[1]
    assert isinstance(begun, RoundRecord)
    lap = LapRecord(10.2, "t", 7, 0.2, 0.2)
    later = (replace(begun, at_s=10.1, round_id=8), replace(lap, at_s=10.3, round_id=8))
    last = (replace(begun, at_s=10.2, round_id=9), replace(lap, at_s=10.4, round_id=9))
    events = events_of((begun, later[0], lap, last[0], later[1], last[1]))
    check(events)
    tracks = {e["name"]: e["tid"] for e in events if e["ph"] == "X"}
    assert tracks["round 7"] == tracks["round 9"] != tracks["round 8"]
    assert thread_names(events) == {"batch 1", "batch 1 (2)"}


@given(data=st.data())
def test_any_records_make_a_file(data: st.DataObject) -> None:
    """Rounds in any order and with any times, as nodes may say what they like."""
    seconds = st.floats(0, 2)
    records = [
        replace(record, at_s=10.0 + data.draw(seconds))
        for record in data.draw(st.lists(st.sampled_from((*ROUND, *OTHERS)), max_size=12))
    ]
    records = [
        replace(r, pass_s=data.draw(seconds), rtt_s=data.draw(seconds))
        if isinstance(r, PassRecord)
        else r
        for r in records
    ]
    check(events_of(tuple(sorted(records, key=lambda record: record.at_s))))
