"""What is measured of planning: what follows a commit, and when."""

from __future__ import annotations

import pytest

from bench.live.planning import compare
from bench.live.planning_hub import Event, figures, stored, timed
from mesh.codec import encode
from nodes.messages import (
    CommitEntry,
    CommitReply,
    DraftEntry,
    DraftRequest,
    LeaseEntry,
    LeaseRequest,
    RequestFailedNotice,
)
from policies.plan import Observation, Plan


def commit(*stream_ids: int) -> list[bytes]:
    entries = tuple(CommitEntry(s, 1, 3, 1, 0, 0, "", b"a") for s in stream_ids)
    return encode(CommitReply(0.0, entries, (9,) * len(entries)))


def draft(*stream_ids: int) -> list[bytes]:
    return encode(DraftRequest(1, tuple(DraftEntry(s, 1, 4, 0, 1, 0) for s in stream_ids), ()))


def lease(*stream_ids: int) -> list[bytes]:
    return encode(LeaseRequest(tuple(LeaseEntry(s, 1, 4, 8) for s in stream_ids)))


def test_figures_are_from_a_commit_to_what_sends_its_streams_on() -> None:
    client = encode(RequestFailedNotice(1, "x", ""))
    events = [
        Event(commit(1, 2), (1.0, 0.5), ended=(9.0, 0.9)),
        Event(client, (2.0, 0.6), is_sent=True),
        Event(draft(1), (3.0, 0.7), is_sent=True),
        # A plan, later; and what is of another commit.
        Event(commit(3), (9.5, 1.0), ended=(9.7, 1.1)),
        Event(lease(2, 3), (10.0, 1.5), is_sent=True),
        # Sent on already; and one that nothing sends on.
        Event(draft(1), (11.0, 2.0), is_sent=True),
        Event(commit(4), (12.0, 2.0)),
        Event(draft(9), (12.5, 2.0)),
    ]
    made = figures(events, [(1.0, 1.0)])
    assert made.first == [(2.0, pytest.approx(0.2)), (0.5, 0.5)]
    assert made.last == [(9.0, 1.0), (0.5, 0.5)]
    assert [wall for wall, _ in made.handled] == [8.0, pytest.approx(0.2)]


def test_a_stored_plan_is_given_again_for_the_same_streams() -> None:
    made: list[Plan] = []

    def policy(_observation: Observation) -> Plan:
        made.append(Plan())
        return made[-1]

    times: list[tuple[float, float]] = []
    plan = timed(stored(policy), times)
    empty = Observation(())
    assert plan(empty) is plan(empty)
    assert (len(made), len(times)) == (1, 2)


async def test_planners_are_measured_beside_one_another() -> None:
    text = await compare(4, 0.5, 2.0, 4)
    assert text.count("| live |") == text.count("| stored |") == 4
    first = next(line for line in text.splitlines() if line.startswith("| stored | first message"))
    assert int(first.split("|")[3]) > 0
