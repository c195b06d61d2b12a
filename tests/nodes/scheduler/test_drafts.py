from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from nodes.messages import (
    CloseStreamNotice,
    DraftReply,
    GuessEntry,
    LeaseEntry,
    OpenStreamRequest,
)
from nodes.scheduler import LEASE_TOKENS, SchedulerState
from nodes.scheduler.drafting.drafts import DraftNode, DraftPool
from nodes.scheduler.drafting.lookup import LOOKUP, Lookup
from nodes.scheduler.instructions import Instruction, ToDraft, ToTarget, leases_of, open_request
from nodes.scheduler.stream import Leased, Stream
from nodes.scheduler.watching.counts import plain_label
from nodes.stream import StreamId
from policies.baselines import POLICIES
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    THREE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    commit_one,
    costs,
    draft_requests,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
    started,
    verify_requests,
)

# 1 ms for one token, 2 for two and 3 for four; 1 us more for every cell and token.
COSTS = NodeCosts(CostTable((1, 2, 4), (1e-3, 2e-3, 3e-3), 1e-6), CostTable((32,), (2e-3,)))


# -- one node --------------------------------------------------------------------------------------


def test_a_draft_takes_a_pass_a_guess_with_those_who_still_guess() -> None:
    node = DraftNode("a", COSTS)
    # Passes of 3 (2.5 ms), 2, 2 and 1 token.
    assert node.draft_s((4, 1, 3), 3) == pytest.approx(7.5e-3)
    # The first pass catches up with 4 tokens.
    assert node.draft_s((4, 1, 3), 4) == pytest.approx(8e-3)
    node.used_cells = 100
    assert node.draft_s((4, 1, 3), 3) == pytest.approx(7.5e-3 + 100e-6 * (3 + 2 + 2 + 1))


@pytest.mark.parametrize(
    ("committed", "first_pass_s"),
    [
        # Guesses that proved right are in the cache of the node, but for the last one.
        (1, 1e-3),
        (4, 1e-3),
        (5, 2e-3),
    ],
)
def test_a_round_is_expected_to_run_what_the_node_has_not_run_yet(
    committed: int, first_pass_s: float
) -> None:
    scheduler = SchedulerState(FixedPolicy(gamma=4), TARGET_COSTS)
    scheduler.draft_joined("a", replace(COSTS, decode=replace(COSTS.decode, per_cell_s=0.0)))
    open_stream(scheduler, ONE, "a")
    # The last token of the prompt, then three guesses.
    assert scheduler._rounds[1].shares["a"].draft_s == pytest.approx(4e-3)
    scheduler.drafted("a", guesses(1, ONE, 3, 9, 9, 9, 9), 0.0)
    tokens = [9] * committed
    assert started(scheduler.committed(commit(ONE, 3, tokens, num_draft_tokens=4), 0.0))
    assert scheduler._rounds[2].shares["a"].draft_s == pytest.approx(first_pass_s + 3e-3)


def test_a_request_and_its_answer_take_the_medium_and_the_way() -> None:
    node = DraftNode("a", COSTS, Link(rate_bps=1e6, rtt_s=0.02, frame_s=1e-3))
    # Two headers of 84 bytes, two entries a stream of 10, and 4 bytes a token.
    bits = 8 * (2 * 84 + 2 * 10 * 2 + 4 * (7 + 5))
    assert node.link_s((4, 3), 5) == pytest.approx(0.02 + 2e-3 + bits / 1e6)
    assert DraftNode("b", COSTS).link_s((4, 3), 5) == 0.0


def test_rounds_of_every_draft_wait_for_the_way_to_the_target() -> None:
    pool = DraftPool(lookup=Lookup())
    pool.add(DraftNode("early", COSTS, Link(rtt_s=0.02, medium="cell")))
    pool.target_is_at(0.1)
    pool.add(DraftNode("late", COSTS))
    views = {name: pool[name].view() for name in ("early", "late", LOOKUP)}
    rtts = {name: view.link.rtt_s for name, view in views.items()}
    assert rtts == pytest.approx({"early": 0.12, "late": 0.1, LOOKUP: 0.1})
    assert views["early"].link.medium == "cell"
    # What a node is waited for is its own way alone.
    assert pool["early"].link_s((1,), 1) < 0.1


# -- choosing one ----------------------------------------------------------------------------------


def test_the_node_that_would_answer_soonest_is_chosen() -> None:
    pool = DraftPool()
    assert pool.choose(set()) is None
    pool.add(DraftNode("slow", costs(3e-3)))
    pool.add(DraftNode("far", costs(1e-3), Link(rtt_s=0.1)))
    pool.add(DraftNode("near", costs(2e-3)))
    assert pool["near"] is pool.choose(set())
    assert pool["slow"] is pool.choose({"near"})
    assert pool["far"] is pool.choose({"near", "slow"})
    assert pool.choose({"near", "slow", "far"}) is None
    assert pool.remove("near")
    assert not pool.remove("near")
    assert [node.name for node in pool] == ["slow", "far"]


def test_how_alike_streams_are_is_learnt_of_each_when_it_is_over_and_once() -> None:
    pool = DraftPool()
    pool.add(DraftNode("a", COSTS))
    before = pool["a"].population.weight
    for number in range(1, 41):
        stream = Stream(make_spec(number), list(PROMPT), None)
        pool.place(stream)
        stream.acceptance.observe(8, 4)
        pool.displace(stream)
        assert pool["a"].population.weight == before
        pool.place(stream)
        stream.acceptance.observe(8, 4)
        pool.ended(stream)
        before = pool["a"].population.weight
    assert before > 10.0
    assert pool["a"].prior().successes + pool["a"].prior().failures == pytest.approx(before)


def test_a_fast_node_gets_more_streams_than_a_slow_one() -> None:
    pool = DraftPool()
    # A token takes the second twice as long, and passes grow with their tokens.
    pool.add(DraftNode("fast", NodeCosts(CostTable((1, 32), (1e-3, 32e-3)), COSTS.prefill)))
    pool.add(DraftNode("slow", NodeCosts(CostTable((1, 32), (2e-3, 64e-3)), COSTS.prefill)))
    for number in range(1, 10):
        pool.place(Stream(make_spec(number), list(PROMPT), None))
    assert (pool["fast"].num_streams, pool["slow"].num_streams) == (6, 3)


def test_streams_are_opened_on_the_target_and_on_nodes_in_turn() -> None:
    scheduler = make_scheduler("a", "b")
    for stream_id, node in ((1, "a"), (2, "b"), (3, "a")):
        spec = make_spec(stream_id)
        opened = open_request(spec)
        assert scheduler.admit(spec, None) == [ToTarget(opened), ToDraft(node, opened)]


def test_a_stream_that_asks_for_gamma_0_takes_no_room_on_a_draft() -> None:
    scheduler = make_scheduler("a")
    assert scheduler.admit(make_spec(), 0) == [ToTarget(open_request(make_spec()))]
    assert scheduler.draft_joined("b", DRAFT_COSTS) == []


# -- nodes come, go and refuse ---------------------------------------------------------------------


def test_a_stream_of_a_lost_draft_moves_to_another_with_all_its_tokens() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE)
    out = scheduler.draft_lost("a", 0.1)
    moved = make_spec(1, max_tokens=LONG, generation=2, token_ids=(*PROMPT, 9))
    assert out[0] == ToDraft("b", open_request(moved))
    assert len(verify_requests(out)) == 1
    # What the lost node still said, and what the new one said of another generation, is counted.
    assert scheduler.draft_ready("a", ONE, 1, 0.2) == []
    assert scheduler.draft_ready("b", ONE, 1, 0.2) == []
    assert scheduler.num_stale == 2


def test_a_stream_with_which_two_drafts_die_goes_on_without() -> None:
    scheduler = make_scheduler("a", "b", "c")
    open_stream(scheduler, ONE, "a")
    for name in ("a", "b"):
        scheduler.draft_lost(name, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.draft is None
    assert stream.plain_reason == "draft off: 2 draft nodes died with it"
    assert plain_label(stream) == "refused"
    scheduler.draft_joined("a", DRAFT_COSTS)
    assert stream.draft is None
    # Others are none the worse.
    scheduler.admit(make_spec(TWO), None)
    other = scheduler.stream(TWO)
    assert other is not None
    assert other.draft is not None


@pytest.mark.parametrize("has_died", [True, False])
def test_a_round_in_between_or_a_draft_that_only_leaves_says_nothing(has_died: bool) -> None:
    scheduler = make_scheduler("a", "b", "c")
    stream_ids = (ONE,)
    open_stream(scheduler, ONE, "a")
    stream = scheduler.stream(ONE)
    assert stream is not None
    for _ in range(6):
        assert stream.draft is not None, stream_ids
        node, number = stream.draft.node, stream.draft.generation
        if has_died:
            ((round_id, _),) = scheduler._rounds.items()
            entry = GuessEntry(ONE, number, length_of(scheduler, ONE), 1)
            scheduler.drafted(node, DraftReply(round_id, (entry,), (5,)), 0.0)
        scheduler.draft_lost(node, 0.0, has_died=has_died)
        scheduler.draft_joined(node, DRAFT_COSTS)
        assert stream.draft is not None
        scheduler.draft_ready(stream.draft.node, ONE, stream.draft.generation, 0.0)
        commit_one(scheduler, ONE)


def test_a_draft_that_joins_takes_the_streams_that_have_none() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    assert [type(i) for i in scheduler.draft_joined("a", DRAFT_COSTS)] == [ToDraft]
    scheduler.draft_ready("a", ONE, 1, 0.0)
    # A stream more makes a plan.
    open_stream(scheduler, TWO)
    stream = scheduler.stream(ONE)
    assert stream is not None
    # It runs its lease out first.
    assert isinstance(stream.phase, Leased)
    out: list[Instruction] = []
    while isinstance(stream.phase, Leased):
        out = commit_one(scheduler, ONE)
    ((node, request),) = draft_requests(out)
    assert node == "a"
    assert request.entries[0].gamma == 4
    # The node was opened with the prompt alone.
    assert request.new_token_ids == (9,) * (length_of(scheduler, ONE) - len(PROMPT))


def test_a_draft_that_refuses_is_not_asked_again_and_its_reason_is_kept() -> None:
    scheduler = make_scheduler("a", "b")
    scheduler.admit(make_spec(max_tokens=LONG), None)
    (moved,) = scheduler.draft_failed("a", ONE, 1, "a is full", 0.0)
    assert isinstance(moved, ToDraft)
    assert moved.node == "b"
    assert scheduler.draft_failed("b", ONE, 2, "b is full", 0.0) == []
    assert scheduler.draft_failed("b", ONE, 2, "b is full", 0.0) == []
    assert scheduler.num_stale == 1
    out = scheduler.target_ready(ONE, 1, 0.0)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 3, LEASE_TOKENS)]
    scheduler.committed(commit(ONE, 3, [9], finish_reason="length"), 0.0)
    assert scheduler.take_figures(ONE)[1] == "draft off: b is full"


def test_a_node_that_starts_anew_may_be_asked_again() -> None:
    scheduler = make_scheduler("a")
    scheduler.admit(make_spec(), None)
    assert scheduler.draft_failed("a", ONE, 1, "a is full", 0.0) == []
    scheduler.draft_lost("a", 0.0)
    (opened,) = scheduler.draft_joined("a", DRAFT_COSTS)
    assert opened == ToDraft("a", open_request(make_spec(generation=2)))


def test_a_place_that_is_given_up_is_free_again() -> None:
    scheduler = make_scheduler("a", "b")
    for stream_id in (ONE, TWO, THREE):
        scheduler.admit(make_spec(stream_id), None)
    # a holds the first and the third, b the second; once the third is gone they are even.
    assert ToDraft("a", CloseStreamNotice(THREE, 1)) in scheduler.cancel(THREE, 0.0)
    scheduler.target_failed(ONE, 1, "full", 0.0)
    for stream_id, node in ((StreamId(4), "a"), (StreamId(5), "a"), (StreamId(6), "b")):
        spec = make_spec(stream_id)
        assert scheduler.admit(spec, None)[1] == ToDraft(node, open_request(spec))


# -- streams go where rounds are shorter -----------------------------------------------------------


def growing(factor: float) -> NodeCosts:
    """Of a node whose passes take as long as they have tokens; prompts are read in no time."""
    decode = CostTable((1, 32), (factor * 1e-3, factor * 32e-3))
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
        scheduler._drafts["a"].speed.observe(4.0, 1.0)
    decode(scheduler, 32)
    assert held(scheduler) == {"a": 0, "b": 2}


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
    load = Counter[str]()
    one, other = (SchedulerState(FixedPolicy(), TARGET_COSTS, draft_load=load) for _ in range(2))
    for scheduler in (one, other):
        for name in ("a", "b"):
            scheduler.draft_joined(name, growing(1.0))
    one.admit(make_spec(ONE), None)
    other.admit(make_spec(TWO), None)
    assert (held(one), held(other)) == ({"a": 1, "b": 0}, {"a": 0, "b": 1})
    one.draft_lost("a", 0.0)
    assert load == {"b": 2}
    one.cancel(ONE, 0.0)
    assert load == {"b": 1}
    other.cancel(TWO, 0.0)
    # Nodes have other names each time, some of them.
    assert load == {}


# -- what rounds tell of a node --------------------------------------------------------------------


def test_a_node_that_takes_twice_as_long_is_planned_with_as_much() -> None:
    policy = FixedPolicy(gamma=4)
    scheduler = SchedulerState(policy, TARGET_COSTS)
    scheduler.draft_joined("a", costs(0.01), Link(rtt_s=0.02))
    open_stream(scheduler, ONE, "a")
    now = 0.0
    for round_id in range(1, 40):
        # A step for every guess made, and one for the guess that was not, each of 20 ms instead
        # of 10; and the way there and back.
        made = round_id % 5
        now += 0.02 + 0.02 * min(4, made + 1)
        length = length_of(scheduler, ONE)
        scheduler.drafted("a", guesses(round_id, ONE, length, *range(made)), now)
        commit_one(scheduler, ONE, now)
    scheduler.target_ready(ONE, 1, now)
    open_stream(scheduler, TWO, now=now)
    (draft,) = policy.seen[-1].drafts
    assert draft.costs.decode.at(1) == pytest.approx(0.02, rel=0.03)


def test_new_streams_expect_what_rounds_of_others_on_the_node_showed() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler("a", policy=policy)
    open_stream(scheduler, ONE, "a")
    for round_id in range(1, 13):
        length = length_of(scheduler, ONE)
        scheduler.drafted("a", guesses(round_id, ONE, length, 8, 8, 8, 8), 0.0)
        scheduler.committed(commit(ONE, length, [9], num_draft_tokens=4), 0.0)
    open_stream(scheduler, TWO, "a")
    one, two = policy.seen[-1].streams
    # A prior of 2.1 guesses right and 0.9 wrong, of which 12 wrong ones leave 0.99^12.
    fade = 0.99**12
    wrong = 0.9 * fade + sum(0.99**k for k in range(12))
    assert two.alpha == pytest.approx(2.1 * fade / (2.1 * fade + wrong))
    assert one.alpha < two.alpha


def test_a_node_with_texts_to_read_is_planned_as_slower() -> None:
    node = DraftNode("a", costs(0.01))
    idle = node.view().costs
    # A piece of 32 tokens takes 10 ms: half of the next two seconds.
    node.num_unread = 3200
    assert node.view().costs.decode.at(1) == pytest.approx(2 * idle.decode.at(1))
    assert node.view().costs.prefill == idle.prefill
    node.num_unread = 10**6
    assert node.view().costs.decode.at(1) == pytest.approx(5 * idle.decode.at(1))


def test_what_a_node_has_to_read_is_what_it_was_given_and_has_not_confirmed() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler("a", policy=policy)
    slow = NodeCosts(CostTable((1,), (0.01,)), CostTable((32,), (1.0,)))
    scheduler.draft_joined("b", slow)
    scheduler.admit(make_spec(ONE, prompt=tuple(range(1, 33)), max_tokens=LONG), None)
    placement = scheduler._streams[ONE].draft
    assert placement is not None
    scheduler.target_ready(ONE, 1, 0.0)
    views = {view.name: view for view in policy.seen[-1].drafts}
    reading = scheduler._drafts[placement.node]
    assert reading.num_unread == 32
    assert views[placement.node].costs.decode.at(1) > reading.costs.decode.at(1)
    scheduler.draft_ready(placement.node, ONE, placement.generation, 0.0)
    scheduler.admit(make_spec(TWO), 0)
    scheduler.target_ready(TWO, 1, 0.0)
    assert reading.num_unread == 0
