"""Streams go to the draft nodes where rounds are shorter."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from nodes.messages import CloseStreamNotice, OpenStreamRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.drafting.load import DraftLoad
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.stream import StreamId
from policies.baselines import POLICIES
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    TWO,
    FixedPolicy,
    commit,
    commit_one,
    draft_requests,
    guesses,
    open_stream,
    verify_requests,
)


def growing(factor: float) -> NodeCosts:
    """Of a node whose passes take as long as they have tokens; prompts are read in no time."""
    decode = CostTable((1, 32), (factor * 1e-3, factor * 32e-3))
    return NodeCosts(decode, CostTable((32,), (1e-6,)))


def flat(seconds: float) -> NodeCosts:
    """Of a node whose passes take as long whatever they have."""
    decode = CostTable((1, 32), (seconds, seconds + 1e-5))
    return NodeCosts(decode, CostTable((32,), (1e-6,)))


def crowd(num_streams: int, node: str, costs: NodeCosts, max_tokens: int = LONG) -> SchedulerState:
    """Streams that are decoded plainly, all on one draft node."""
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS)
    scheduler.draft_joined(node, costs)
    for number in range(1, num_streams + 1):
        open_stream(scheduler, StreamId(number), node, max_tokens=max_tokens)
    return scheduler


def decode(scheduler: SchedulerState, num_tokens: int) -> list[Instruction]:
    """Commit so many tokens to each stream; draft nodes read at once what they are given."""
    out: list[Instruction] = []
    for _ in range(num_tokens):
        for stream_id in list(scheduler._streams):
            said = commit_one(scheduler, stream_id)
            for told in said:
                if isinstance(told, ToDraft) and isinstance(told.message, OpenStreamRequest):
                    opened = told.message
                    ready = StreamId(opened.stream_id), opened.generation
                    scheduler.draft_ready(told.node, *ready, 0.0)
            out += said
    return out


def held(scheduler: SchedulerState) -> dict[str, int]:
    return {node.name: node.num_streams for node in scheduler._drafts}


def test_a_node_that_joins_takes_over_streams_of_a_crowded_one() -> None:
    scheduler = crowd(8, "a", growing(1.0))
    assert scheduler.draft_joined("b", growing(1.0)) == []
    out = decode(scheduler, 32)
    # 5 to 3 is within what rounds may differ.
    assert held(scheduler) in ({"a": 4, "b": 4}, {"a": 5, "b": 3})
    moved = [i.message for i in out if isinstance(i, ToDraft) and i.node == "b"]
    left = [i.message for i in out if isinstance(i, ToDraft) and i.node == "a"]
    assert [m.stream_id for m in moved] == [m.stream_id for m in left]  # type: ignore[union-attr]
    assert all(isinstance(notice, CloseStreamNotice) for notice in left)
    for opened in moved:
        assert isinstance(opened, OpenStreamRequest)
        assert (opened.generation, opened.token_ids[:3]) == (2, PROMPT)
        assert len(opened.token_ids) > len(PROMPT)
    # And there it stays.
    before = held(scheduler)
    assert [i for i in decode(scheduler, 64) if isinstance(i, ToDraft)] == []
    assert held(scheduler) == before


def test_a_node_four_times_as_slow_ends_with_fewer_streams() -> None:
    scheduler = crowd(10, "slow", growing(4.0))
    scheduler.draft_joined("fast", growing(1.0))
    decode(scheduler, 160)
    # With 8 to 2 both take as long.
    assert held(scheduler)["fast"] >= 7
    assert sum(held(scheduler).values()) == 10


def test_streams_leave_a_node_that_proves_slow() -> None:
    scheduler = crowd(2, "a", growing(1.0))
    scheduler.draft_joined("b", growing(2.5))
    decode(scheduler, 32)
    assert held(scheduler) == {"a": 2, "b": 0}
    for _ in range(40):
        scheduler._drafts["a"].pace.speed.observe(4.0, 1.0)
    decode(scheduler, 32)
    assert held(scheduler) == {"a": 0, "b": 2}


def test_a_stream_that_has_moved_stays_for_a_while() -> None:
    scheduler = crowd(1, "a", growing(4.0))
    scheduler.draft_joined("b", growing(1.0))
    decode(scheduler, 16)
    assert held(scheduler) == {"a": 0, "b": 1}
    for _ in range(60):
        scheduler._drafts["b"].pace.speed.observe(10.0, 1.0)
    # 64 tokens after its move, and then with the next look.
    decode(scheduler, 60)
    assert held(scheduler) == {"a": 0, "b": 1}
    decode(scheduler, 20)
    assert held(scheduler) == {"a": 1, "b": 0}


@pytest.mark.parametrize(("rate_bps", "num_moved"), [(1e9, 2), (5e3, 0)])
def test_streams_stay_where_telling_their_texts_would_hold_up_all_on_the_medium(
    rate_bps: float, num_moved: int
) -> None:
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS)
    link = Link(rate_bps, medium="cell")
    scheduler.draft_joined("a", growing(1.0), link)
    for number in range(1, 5):
        open_stream(scheduler, StreamId(number), "a", max_tokens=30)
    scheduler.draft_joined("b", growing(1.0), link)
    decode(scheduler, 17)
    assert held(scheduler)["b"] == num_moved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("here", "there", "num_streams", "expected"),
    [
        # One that became slow, whose guesses take as long for one stream as for all.
        (flat(20e-3), flat(5e-3), 16, {"a": 0, "b": 16}),
        # A crowded one; the last move would save too little.
        (growing(1.0), growing(1.0), 8, {"a": 5, "b": 3}),
        # A node more saves nothing.
        (flat(5e-3), flat(5e-3), 16, {"a": 16, "b": 0}),
    ],
)
def test_streams_of_a_medium_are_shared_out_anew_where_that_is_better_for_all(
    here: NodeCosts, there: NodeCosts, num_streams: int, expected: dict[str, int]
) -> None:
    """Though one alone would gain little by going."""
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS)
    link = Link(20e6, medium="cell", frame_s=5e-4)
    scheduler.draft_joined("a", here, link)
    for number in range(1, num_streams + 1):
        open_stream(scheduler, StreamId(number), "a", max_tokens=1000)
    scheduler.draft_joined("b", there, link)
    decode(scheduler, 300)
    assert held(scheduler) == expected
    decode(scheduler, 100)
    assert held(scheduler) == expected


def test_only_a_few_streams_are_on_their_way_at_a_time() -> None:
    scheduler = crowd(8, "a", growing(1.0))
    scheduler.draft_joined("b", growing(1.0))
    for _ in range(40):
        for stream_id in list(scheduler._streams):
            commit_one(scheduler, stream_id)
    # The node has not read any of them.
    assert held(scheduler) == {"a": 6, "b": 2}


@pytest.mark.parametrize(("max_tokens", "moves"), [(60, False), (400, True)])
def test_a_stream_moves_only_if_it_has_enough_to_come(max_tokens: int, moves: bool) -> None:
    scheduler = crowd(2, "a", growing(4.0), max_tokens)
    # Rounds are 16 ms shorter there, and reading takes 2 s.
    slow_reader = replace(growing(1.0), prefill=CostTable((1,), (0.1,)))
    scheduler.draft_joined("b", slow_reader)
    decode(scheduler, 17)
    assert (held(scheduler)["b"] > 0) is moves


def test_a_stream_in_a_round_stays_until_it_is_back() -> None:
    scheduler = SchedulerState(FixedPolicy(gamma=4), TARGET_COSTS)
    scheduler.draft_joined("a", growing(4.0))
    scheduler.admit(make_spec(ONE, prompt=(5,) * 40, max_tokens=LONG), None)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    (_, request) = draft_requests(scheduler.target_ready(ONE, 1, 0.0))[0]
    assert scheduler.draft_joined("b", growing(1.0)) == []
    (verify,) = verify_requests(scheduler.drafted("a", guesses(request.round, ONE, 40, 9), 0.0))
    assert len(verify.draft_token_ids) == 1
    out = scheduler.committed(commit(ONE, 40, [9, 9], num_draft_tokens=1), 0.0)
    to_drafts = [(i.node, type(i.message)) for i in out if isinstance(i, ToDraft)]
    assert to_drafts == [("a", CloseStreamNotice), ("b", OpenStreamRequest)]


def test_streams_of_other_targets_count_on_a_node() -> None:
    load = DraftLoad()
    one, other = (SchedulerState(FixedPolicy(), TARGET_COSTS, draft_load=load) for _ in range(2))
    for scheduler in (one, other):
        for name in ("a", "b"):
            scheduler.draft_joined(name, growing(1.0))
    one.admit(make_spec(ONE), None)
    other.admit(make_spec(TWO), None)
    assert (held(one), held(other)) == ({"a": 1, "b": 0}, {"a": 0, "b": 1})
    one.draft_lost("a", 0.0)
    assert load.totals == {"b": 2}
    one.cancel(ONE, 0.0)
    assert load.totals == {"b": 1}
    other.cancel(TWO, 0.0)
    # Nodes have other names each time, some of them.
    assert load.totals == {}


def test_a_target_keeps_to_nodes_that_do_not_draft_for_others() -> None:
    load = DraftLoad()
    one, other = (SchedulerState(FixedPolicy(), TARGET_COSTS, draft_load=load) for _ in range(2))
    # A pass takes as long for eight streams as for one: to share a node costs a pass.
    flat = NodeCosts(CostTable((1, 32), (1e-3, 1e-3)), CostTable((32,), (1e-6,)))
    for scheduler in (one, other):
        for name in ("a", "b"):
            scheduler.draft_joined(name, flat)
    for number in range(1, 9):
        one.admit(make_spec(number), None)
        other.admit(make_spec(number + 8), None)
    assert (held(one), held(other)) == ({"a": 8, "b": 0}, {"a": 0, "b": 8})


# A pass takes as long for all streams as for one: to share a node costs a pass.
FLAT = NodeCosts(CostTable((1, 32), (1e-3, 1e-3)), CostTable((32,), (1e-6,)))


def sharing(num_targets: int) -> list[SchedulerState]:
    """Schedulers of targets with the same draft nodes."""
    load, policy = DraftLoad(), POLICIES["ad"]
    return [SchedulerState(policy, TARGET_COSTS, draft_load=load) for _ in range(num_targets)]


def mixed_up(num_targets: int, num_nodes: int) -> list[SchedulerState]:
    """Two streams of each target on each draft node."""
    load = DraftLoad()
    made = [
        SchedulerState(POLICIES["ad"], TARGET_COSTS, draft_load=load) for _ in range(num_targets)
    ]
    names = [f"d{number}" for number in range(num_nodes)]
    numbers = iter(range(1, 1000))
    for scheduler in made:
        for name in names:
            scheduler.draft_joined(name, FLAT, Link(rtt_s=1.0))
        for name in names:
            scheduler.draft_link(name, Link(rtt_s=1e-3))
            for _ in range(2):
                open_stream(scheduler, StreamId(next(numbers)), name, max_tokens=1000)
            scheduler.draft_link(name, Link(rtt_s=1.0))
        for name in names:
            scheduler.draft_link(name, Link(rtt_s=1e-3))
    assert all(held(scheduler) == dict.fromkeys(names, 2) for scheduler in made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("num_targets", "num_nodes"), [(2, 2), (4, 4), (3, 2), (8, 3)])
def test_targets_that_share_all_draft_nodes_part(num_targets: int, num_nodes: int) -> None:
    made = mixed_up(num_targets, num_nodes)
    for _ in range(100):
        for scheduler in made:
            decode(scheduler, 4)
    nodes_of = [{name for name, num in held(scheduler).items() if num} for scheduler in made]
    sharing = [sum(name in nodes for nodes in nodes_of) for name in held(made[0])]
    # No target waits at more nodes than one, and no node drafts for many more than another.
    assert all(len(nodes) == 1 for nodes in nodes_of)
    assert max(sharing) - min(sharing) <= 1
    # And that is how it stays.
    assert [i for s in made for i in decode(s, 128) if isinstance(i, ToDraft)] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(80))
def test_moves_come_to_an_end(seed: int) -> None:
    """Whatever nodes cost, however far they are and whoever shares them."""
    random = Random(seed)
    num_targets, num_nodes = random.randint(1, 5), random.randint(2, 5)
    load = DraftLoad()
    made = [
        SchedulerState(POLICIES["ad"], TARGET_COSTS, draft_load=load) for _ in range(num_targets)
    ]
    names = [f"d{number}" for number in range(num_nodes)]
    numbers = iter(range(1, 1000))
    costs, links, detours_s = {}, {}, {}
    for name in names:
        first_s, more_s = random.uniform(0.5e-3, 4e-3), random.choice((0.0, 1e-5, 2e-4, 1e-3))
        decode = CostTable((1, 32), (first_s, first_s + 31 * more_s))
        costs[name] = NodeCosts(decode, CostTable((32,), (1e-6,)))
        links[name] = Link(
            random.choice((math.inf, 2e5, 2e6, 2e7)),
            rtt_s=random.choice((1e-3, 2e-3, 5e-3, 2e-2)),
            medium=random.choice(("", "cell")),
            frame_s=random.choice((0.0, 5e-4)),
        )
        detours_s[name] = random.choice((0.0, 1e-3, 1e-2))
    for scheduler in made:
        for name in names:
            scheduler.draft_joined(name, costs[name], Link(rtt_s=1.0))
        for name in names:
            scheduler.draft_link(name, Link(rtt_s=1e-3))
            for _ in range(random.randint(0, 4)):
                open_stream(scheduler, StreamId(next(numbers)), name, max_tokens=100_000)
            scheduler.draft_link(name, Link(rtt_s=1.0))
        for name in names:
            scheduler.draft_link(name, links[name])
            scheduler._drafts[name].pace.detour_s = detours_s[name]

    def look() -> int:
        """All streams at their draft nodes, some tokens later; how many move."""
        num_moves = 0
        for scheduler in made:
            for stream in scheduler._streams.values():
                stream.token_ids += [1] * 70
                for told in scheduler._drafts.rebalance(stream, 0):
                    if isinstance(told, ToDraft) and isinstance(told.message, OpenStreamRequest):
                        opened = StreamId(told.message.stream_id), told.message.generation
                        scheduler.draft_ready(told.node, *opened, 0.0)
                        num_moves += 1
        return num_moves

    for _ in range(40):
        look()
    assert sum(look() for _ in range(20)) == 0


def test_targets_do_not_crowd_where_ways_are_longer_than_pings_say() -> None:
    """What rounds have found of the way to a node that is used tells nothing of the others'."""
    made = sharing(2)
    for number, scheduler in enumerate(made):
        for name in ("d0", "d1"):
            scheduler.draft_joined(name, FLAT, Link(rtt_s=1.0))
        scheduler.draft_link(f"d{number}", Link(rtt_s=1e-3))
        for stream in range(4):
            open_stream(scheduler, StreamId(4 * number + stream + 1), f"d{number}", max_tokens=1000)
        for name in ("d0", "d1"):
            scheduler.draft_link(name, Link(rtt_s=2e-3))
            scheduler._drafts[name].pace.detour_s = 1e-2
    for _ in range(60):
        for scheduler in made:
            decode(scheduler, 4)
    assert [held(scheduler) for scheduler in made] == [{"d0": 4, "d1": 0}, {"d0": 0, "d1": 4}]
