"""What the way to the target costs streams that are guessed by lookup."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.messages import CommitReply
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import leases_of
from nodes.scheduler.leases import Leases
from nodes.scheduler.stream import Idle, Leased, Stream
from nodes.stream import StreamId
from policies.plan import Link
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    FixedPolicy,
    PlainPolicy,
    commit,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
    verify_requests,
)


def make_leases(rtt_s: float = 0.001) -> Leases:
    leases = Leases({}, lambda: 0.0)
    leases.link = Link(rtt_s=rtt_s)
    leases.pass_done(0.02)
    return leases


def test_the_way_is_what_rounds_take_beside_their_passes() -> None:
    leases = make_leases()
    assert leases.way_s == 0.001
    for _ in range(100):
        leases.pass_done(0.02)
        leases.round_done(0.023)
    assert leases.way_s == pytest.approx(0.003)
    # Something that came between is no way; nor is it less than what Pings take.
    leases.round_done(10.0)
    assert leases.way_s < 0.005
    for _ in range(100):
        leases.round_done(0.0)
    assert leases.way_s == 0.001


def test_who_decodes_by_itself_pays_the_way_twice_for_a_round() -> None:
    leases = make_leases()
    stream = Stream(make_spec(), list(PROMPT), None)
    stream.phase = Idle()
    assert leases.toll_of_rounds([stream], keep_step=True) == (0.001, 1.0)
    stream.phase = Leased(len(stream.token_ids) + 3)
    assert leases.toll_of_rounds([stream], keep_step=True) == (0.002, 1.0)
    # Beside others nobody waits, and the stream misses a pass.
    assert leases.toll_of_rounds([stream], keep_step=False) == (0.0, 2.0)


def test_a_round_of_lookup_tells_the_way() -> None:
    scheduler = SchedulerState(FixedPolicy(), TARGET_COSTS, lookup=True)
    copied = tuple(range(10, 20))
    scheduler.admit(make_spec(ONE, prompt=(*copied, 10, 11, 12, 13), max_tokens=400), None)
    (request,) = verify_requests(scheduler.target_ready(ONE, 1, 0.0))
    num_guesses = len(request.draft_token_ids)
    taken = [*request.draft_token_ids, 99]
    told = commit(ONE, 14, taken, num_draft_tokens=num_guesses, pass_s=0.020)
    scheduler.committed(told, 0.024)
    assert scheduler._dispatcher.leases.way_s == pytest.approx(0.004)


@pytest.mark.parametrize(("draft_us", "overruns"), [(0, True), (10_000, False)])
def test_what_is_learnt_of_a_way_is_no_overrun(draft_us: int, overruns: bool) -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(cycle_s=0.1))
    open_stream(scheduler, ONE, "a")
    # A second until the guesses are there, ten milliseconds of which were spent on them.
    reply = replace(guesses(1, ONE, 3, 7, 8), draft_us=draft_us)
    assert verify_requests(scheduler.drafted("a", reply, 1.0))
    scheduler.committed(commit(ONE, 3, [7, 8, 9], num_draft_tokens=2), 1.05)
    assert (scheduler._cycle._excess(1.05) > 0.0) is overruns


def test_a_lease_is_told_anew_where_it_is_of_another_kind() -> None:
    stream = Stream(make_spec(), list(PROMPT), None)
    stream.phase = Idle()
    (first,) = stream.extend_lease(8, 4)
    assert (first.num_tokens, first.beside_rounds) == (8, False)
    assert stream.extend_lease(8, 4) == []
    (second,) = stream.extend_lease(2, 1, beside_rounds=True)
    assert (second.num_tokens, second.beside_rounds) == (8, True)
    assert stream.extend_lease(2, 1, beside_rounds=True) == []


@pytest.mark.parametrize("some_drafted", [False, True])
def test_who_has_no_match_goes_along_with_a_draft_nodes_round(some_drafted: bool) -> None:
    """That begins now, not only one that is under way already."""
    leases = make_leases()
    stream = Stream(make_spec(), list(PROMPT), None)
    stream.phase = Idle()
    found = leases.between_matches(
        [stream], keep_step=False, some_go=False, some_drafted=some_drafted
    )
    assert found == ((1, 0, True) if some_drafted else (2, 1, False))


def lease_messages(link: Link) -> tuple[int, int]:
    """LeaseRequests in 60 passes of four streams that began one after the other, and the fewest
    tokens that a lease had left."""
    scheduler = make_scheduler(policy=PlainPolicy())
    scheduler.target_link(link)
    numbers = [StreamId(number) for number in (1, 2, 3, 4)]
    for count, stream_id in enumerate(numbers, 1):
        open_stream(scheduler, stream_id, max_tokens=500)
        run_passes(scheduler, numbers[:count], 3)
    return run_passes(scheduler, numbers, 60)


def run_passes(scheduler: SchedulerState, numbers: list[StreamId], count: int) -> tuple[int, int]:
    num_messages, least = 0, 500
    for _ in range(count):
        entries = [commit(k, length_of(scheduler, k), [9]).entries[0] for k in numbers]
        reply = CommitReply(0.04, tuple(entries), (9,) * len(numbers))
        num_messages += bool(leases_of(scheduler.committed(reply, 0.0)))
        for stream_id in numbers:
            stream = scheduler.stream(stream_id)
            assert stream is not None
            assert isinstance(stream.phase, Leased)
            least = min(least, stream.phase.end - len(stream.token_ids))
    return num_messages, least


def test_leases_of_a_target_on_the_air_are_few_and_long() -> None:
    by_wire, least_by_wire = lease_messages(Link(rtt_s=0.002))
    on_air, least_on_air = lease_messages(Link(200e3, 0.002, "cell", 0.0005))
    assert by_wire > 3 * on_air > 0
    # A lease may wait on the air for 0.2 s: five passes.
    assert least_on_air > 5 >= least_by_wire
