import itertools
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.telemetry.trace.chrome import chrome_trace
from airdraft.nodes.telemetry.trace.records import PassRecord, Record
from airdraft.policies.plan import Batch
from tests.nodes.telemetry.trace.examples import FLOW, FOLLOWED, GUESSES, OTHERS, PASS, PLAN

Event = dict[str, Any]
COORDINATOR, NODE, TARGET = "coordinator, for t", "draft node a", "target t"
IN_FORCE, STREAM = (COORDINATOR, "plan in force"), (COORDINATOR, "stream 1")


def events_of(*records: Record) -> list[Event]:
    made = json.dumps(chrome_trace(records), allow_nan=False)
    events: list[Event] = json.loads(made)["traceEvents"]
    return events


def spans_of(*records: Record) -> list[tuple[str, str, str, float, float]]:
    """Process, thread, name, start and end of all spans, in seconds from the start of the file."""
    events = events_of(*records)
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return [
        (
            *(processes[e["pid"]], threads[e["tid"]], e["name"]),
            *(e["ts"] / 1e6, (e["ts"] + e.get("dur", 0)) / 1e6),
        )
        for e in events
        if e["ph"] in "Xi"
    ]


def notes_of(*records: Record) -> list[Event]:
    return [event.get("args", {}) for event in events_of(*records) if event["ph"] in "Xi"]


def test_guesses_a_pass_a_plan_and_a_follower_are_spans_of_their_tracks() -> None:
    # What is open at the end of the recording ends there.
    assert spans_of(*FLOW) == [
        (*IN_FORCE, "open flow", 0.0, 0.12),
        (*STREAM, "followed by a", 0.0, 0.12),
        (NODE, "guesses", "7 guesses", 0.02, 0.02),
        # Of 60 ms, reported at 0.12 over a link of 2 ms.
        (TARGET, "pass", "9 tokens", 0.059, 0.119),
    ]
    assert notes_of(GUESSES) == [{"streams": 2, "for": "t"}]


def test_a_pass_tells_what_became_of_its_guesses() -> None:
    verified = replace(PASS, num_read=32, turn_s=0.016)
    # Texts that are read beside are told, too.
    assert [name for _, _, name, *_ in spans_of(verified)] == ["41 tokens"]
    assert notes_of(verified) == [
        {
            "pass_ms": 60.0,
            "predicted_ms": 50.0,
            "streams": [1, 2],
            "committed": 4,
            "guesses": 7,
            "accepted": 2,
            "in_turns": 0,
            "turn_ms": 16.0,
            "looked_up": 3,
            "offered": 6,
            "late": 1,
            "best_chances": {"1": 0.8},
            "prompt_tokens": 32,
        }
    ]


def test_a_plan_tells_both_prices_and_which_way_is_in_force() -> None:
    (notes,) = notes_of(replace(PLAN, batches=(Batch((1, 2), (8, 4)),)))
    assert PLAN.prediction is not None
    assert notes["in_force"] == "open flow"
    assert notes["open_price_ms"] == pytest.approx(PLAN.open_price_s * 1e3, abs=1e-3)
    assert notes["groups_price_ms"] == pytest.approx(PLAN.prediction.price_s * 1e3, abs=1e-3)
    assert notes["groups"] == [{"1": 8, "2": 4}]
    assert notes["policy"] == "joint"


def test_groups_in_force_are_called_by_their_guesses() -> None:
    grouped = replace(PLAN, is_grouped=True)
    both = replace(grouped, batches=(Batch((1, 2), (4, 3)), Batch((5,), (1,))), plain=(7, 8))
    none = replace(grouped, batches=(), plain=(1,))
    plans = both, none, replace(none, prediction=None)
    found = [name for _, _, name, *_ in spans_of(*plans)]
    assert found == ["groups: 4 3 | 1", "groups: none", "groups: none"]
    notes = notes_of(*plans)
    assert notes[0]["plain"] == [7, 8]
    assert "bound" not in notes[2]


def test_each_plan_lasts_until_the_next_one() -> None:
    first, second, last = (replace(PLAN, at_s=at_s) for at_s in (10.0, 11.0, 11.5))
    other = replace(PLAN, at_s=11.25, target="u")
    spans = spans_of(first, second, other, last)
    assert [(process, *times) for process, _, _, *times in spans] == [
        (COORDINATOR, 0.0, 1.0),
        (COORDINATOR, 1.0, 1.5),
        ("coordinator, for u", 1.25, 1.5),
        (COORDINATOR, 1.5, 1.5),
    ]


def test_a_following_lasts_until_it_ends_or_another_one_begins() -> None:
    records = FOLLOWED, replace(FOLLOWED, at_s=10.1, node="b"), *OTHERS
    first, second, *_ = spans_of(*records)
    assert first == (*STREAM, "followed by a", 0.0, 0.1)
    assert second == (*STREAM, "followed by b", 0.1, 0.2)
    assert notes_of(*records)[1] == {"until": "a sent no guesses in time"}
    # What began before the recording is not known.
    assert not [span for span in spans_of(*OTHERS) if span[:2] == STREAM]


def test_passes_follow_one_another_until_the_last_one_is_reported() -> None:
    (*_, start, end), (*_, next_start, next_end) = spans_of(PASS, replace(PASS, at_s=10.15))
    # The file begins with the first one, which ends a millisecond before its report.
    assert (start, end, next_end) == (0.0, next_start, 0.091)
    # Another target's passes are beside them.
    *_, (process, _, _, other_start, _) = spans_of(PASS, replace(PASS, at_s=10.15, target="u"))
    assert (process, other_start < end) == ("target u", True)
    # Nothing lies outside of what the coordinator saw.
    (*_, end), (*_, last) = spans_of(
        replace(PASS, pass_s=90.0, rtt_s=1.0), replace(FOLLOWED, at_s=PASS.at_s)
    )
    assert end <= last


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
    events = events_of(*FLOW, *OTHERS)
    rates = [(e["ts"], e["args"]["tokens/s"]) for e in events if e["name"] == "tokens/s"]
    assert rates == [(0, 16.0), (250_000, 4.0), (500_000, 0.0)]
    shares = [(e["ts"], e["args"]["acceptance"]) for e in events if e["name"] == "acceptance"]
    assert shares == [(0, 2 / 7)]
    assert events_of() == []


def test_a_draft_node_and_two_targets_share_no_track() -> None:
    other = [replace(record, target="u") for record in (FOLLOWED, GUESSES, PASS)]
    events = events_of(*FLOW, *other)
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
    check(events_of(*sorted(records, key=lambda record: record.at_s)))
