"""The checker finds what must not be, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.harness.cases import Case, Expected
from bench.harness.history import Record, Seen, Tally, faults_of
from nodes.client.generation import GenerateOptions

CASE = Case(
    (1, 2), GenerateOptions(max_tokens=4, seed=1), (Expected((5, 6, 7, 8), b" 5 6 7 8", "length"),)
)
STOPPED = Case((1,), GenerateOptions(seed=1), (Expected((5, 6), b" 5", "stop"),))
STARTED = Seen(0.1, "started")


def tokens(position: int, *ids: int, text: bytes | None = None, at_s: float = 0.2) -> Seen:
    text = b"".join(b" %d" % i for i in ids) if text is None else text
    return Seen(at_s, "tokens", 0, position, ids, text)


def finished(count: int, reason: str = "length") -> Seen:
    return Seen(0.9, "finished", num_tokens=count, reason=reason)


def record(*events: Seen, end: str = "finished", case: Case = CASE, took_s: float = 1.0) -> Record:
    return Record(1, case, 0.0, 10.0, list(events), end, ended_at_s=took_s)


def kinds(checked: Record) -> list[str]:
    return [fault.kind for fault in faults_of(checked)]


@pytest.mark.parametrize(
    "good",
    [
        record(STARTED, tokens(0, 5), tokens(1, 6, 7), tokens(3, 8), finished(4)),
        record(STARTED, tokens(0, 5), tokens(1, 6, text=b""), finished(2, "stop"), case=STOPPED),
        # An error is an end, and what came before it is right.
        record(STARTED, tokens(0, 5, 6), end="failed"),
        record(end="failed"),
    ],
)
def test_what_is_right_is_not_reported(good: Record) -> None:
    assert kinds(good) == []


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        # A lost token, and what follows in its right place.
        (record(STARTED, tokens(0, 5), tokens(2, 7, 8), finished(4)), {"lost"}),
        # The same, unnoticed by who counts positions.
        (record(STARTED, tokens(0, 5), tokens(1, 7, 8), finished(3)), {"changed", "fake finish"}),
        (record(STARTED, tokens(0, 5, 6), tokens(1, 6, 7, 8), finished(4)), {"repeated"}),
        (record(STARTED, tokens(0, 5), tokens(0, 5), tokens(1, 6), end="failed"), {"repeated"}),
        (record(STARTED, tokens(0, 5, 9), end="failed"), {"changed"}),
        (record(STARTED, tokens(0, 5, 6, 7, 8, 9), finished(5)), {"changed", "fake finish"}),
        (record(STARTED, tokens(0, 5, 6, text=b" 5 7"), end="failed"), {"changed"}),
        (record(STARTED, tokens(0, 5, 6), finished(2)), {"fake finish"}),
        (record(STARTED, finished(0, "stop")), {"fake finish"}),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(4, "stop")), {"fake finish"}),
        (record(STARTED, tokens(0, 5, 6, text=b""), finished(2, "stop"), case=STOPPED),
         {"fake finish"}),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(5)), {"lost"}),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(4), tokens(4, 9)), {"repeated"}),
        (record(STARTED, tokens(0, 5, 6, 7, 8), finished(4), finished(4)), {"repeated"}),
        (record(STARTED, STARTED, end="failed"), {"repeated"}),
        (record(tokens(0, 5), STARTED, end="failed"), {"repeated"}),
        (record(STARTED, tokens(0, 5), end="late", took_s=10.0), {"no end"}),
        (record(STARTED, tokens(0, 5), end=""), {"no end"}),
        (record(STARTED, tokens(0, 5)), {"no end"}),
        (record(STARTED, tokens(0, 5), end="failed", took_s=11.5), {"late"}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(bad: Record, found: set[str]) -> None:
    assert set(kinds(bad)) == found


def test_each_choice_is_checked_by_itself() -> None:
    two = Case((1,), GenerateOptions(num_choices=2, seed=1), (CASE.expected[0],) * 2)
    good = [STARTED, tokens(0, 5, 6, 7, 8), finished(4)]
    assert kinds(record(*good, case=two)) == ["no end"]
    other = [Seen(1.0, "tokens", 1, 0, (5, 6, 7, 8), b" 5 6 7 8"), Seen(1, "finished", 1)]
    assert kinds(record(*good, *other, case=two)) == ["lost", "fake finish"]


def test_a_stall_is_the_longest_time_between_two_events_of_a_choice() -> None:
    seen = record(STARTED, tokens(0, 5, at_s=0.3), tokens(1, 6, at_s=1.3), finished(2))
    assert list(seen.stalls_s()) == [pytest.approx(1.0)]
    assert list(record(STARTED).stalls_s()) == []


def test_a_tally_keeps_the_first_history_that_is_wrong(tmp_path: Path) -> None:
    tally = Tally(seed=7, folder=tmp_path)
    tally.add(record(STARTED, tokens(0, 5, 6, 7, 8), finished(4)))
    assert str(tally).endswith("\n0 faults")
    assert not tally.history.exists()
    failed = record(STARTED, end="failed")
    failed.code, failed.reason = "unavailable", "no target"
    tally.add(failed)
    tally.add(record(STARTED, tokens(0, 5, 6), finished(2)))
    tally.add(record(end="late"))
    tally.wrong("accident", "target-0 ended by itself")
    assert tally.num_requests == 4
    first = "fake finish: request 1: choice 0: length after 2 of 4 tokens"
    assert [fault.partition(":")[0] for fault in tally.faults] == [
        "fake finish",
        "no end",
        "accident",
    ]
    assert (tally.faults[0], tally.verdict()) == (first, f"WRONG: {first}")
    history = json.loads(tally.history.read_text())
    assert history["seed"] == 7
    assert history["faults"] == ["fake finish: choice 0: length after 2 of 4 tokens"]
    assert [event["what"] for event in history["events"]] == ["started", "tokens", "finished"]
    assert history["case"]["expected"][0]["text"] == " 5 6 7 8"
    text = str(tally)
    assert "failed 1 x unavailable: no target" in text
    assert f"3 faults\n  {first}" in text
