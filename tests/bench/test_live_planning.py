"""What is measured of planning: what follows a commit, and when."""

from __future__ import annotations

import pytest

from bench.live.planning import compare
from bench.live.planning_hub import _Turn, figures, stored, timed
from mesh.codec import encode
from nodes.messages import CommitReply, DraftRequest, LeaseRequest, RequestFailedNotice
from policies.plan import Observation, Plan


def test_figures_are_from_a_commit_to_what_sends_streams_on() -> None:
    client, draft = encode(RequestFailedNotice(1, "x", "")), encode(DraftRequest(1, (), ()))
    commit, lease = encode(CommitReply(0.0, (), ())), encode(LeaseRequest(()))
    turns = [
        _Turn(commit, (1.0, 0.5), [(client, (2.0, 0.6)), (draft, (3.0, 0.7))], (9.0, 0.9)),
        _Turn(commit, (0.0, 0.0), [(lease, (1.0, 1.0)), (draft, (2.0, 2.0))], (3.0, 3.0)),
        _Turn(commit, (0.0, 0.0), [(client, (1.0, 1.0))], (4.0, 4.0)),
        _Turn(lease, (0.0, 0.0), [(draft, (1.0, 1.0))], (4.0, 4.0)),
    ]
    made = figures(turns, [(1.0, 1.0)])
    assert made.first == [(2.0, pytest.approx(0.2)), (1.0, 1.0)]
    assert made.last == [(2.0, pytest.approx(0.2)), (2.0, 2.0)]
    assert [wall for wall, _ in made.handled] == [8.0, 3.0, 4.0]


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


@pytest.mark.timeout(60)
async def test_planners_are_measured_beside_one_another() -> None:
    text = await compare(4, 0.5, 2.0, 4)
    assert text.count("| live |") == text.count("| stored |") == 4
    first = next(line for line in text.splitlines() if line.startswith("| stored | first message"))
    assert int(first.split("|")[3]) > 0
