"""Draft nodes: how long they take, what rounds tell of them, and which one a stream is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.scheduler import SchedulerState
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.drafting.lookup import LOOKUP, Lookup
from nodes.scheduler.instructions import ToDraft, ToTarget, open_request
from nodes.scheduler.stream import Stream
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    TWO,
    FixedPolicy,
    commit,
    commit_one,
    costs,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
    started,
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
    # Two headers of 153 bytes, two entries a stream of 10, and 4 bytes a token.
    bits = 8 * (2 * 153 + 2 * 10 * 2 + 4 * (7 + 5))
    assert node.link_s((4, 3), 5) == pytest.approx(0.02 + 2e-3 + bits / 1e6)
    assert DraftNode("b", COSTS).link_s((4, 3), 5) == 0.0


def test_rounds_of_every_draft_wait_for_the_way_to_the_target() -> None:
    pool = DraftPool(lookup=Lookup())
    pool.add(DraftNode("early", COSTS, Link(rtt_s=0.02, medium="cell")))
    pool.target_is_at(Link(rtt_s=0.1))
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


def test_nodes_of_one_medium_are_not_told_apart_by_what_its_messages_waited_for() -> None:
    pool = DraftPool()
    # The slow one was last heard of when the cell was quiet.
    pool.add(DraftNode("fast", COSTS, Link(200e3, rtt_s=0.4, medium="cell")))
    pool.add(DraftNode("slow", COSTS, Link(50e3, rtt_s=0.02, medium="cell")))
    assert pool.choose(set()) is pool["fast"]
    # To one that does not share it messages do not wait.
    pool.add(DraftNode("wired", COSTS, Link(200e3, rtt_s=0.01)))
    assert pool.choose(set()) is pool["wired"]
    pool["wired"].link = Link(200e3, rtt_s=0.4)
    assert pool.choose(set()) is pool["fast"]


def placed(pool: DraftPool, num_streams: int) -> list[int]:
    """Streams by node, each where it is put when it comes."""
    for number in range(1, num_streams + 1):
        spec = make_spec(number, max_tokens=100)
        pool.place(Stream(spec, list(spec.token_ids), None))
    return [node.num_streams for node in pool]


def test_streams_share_a_node_where_another_one_would_add_messages_to_a_medium() -> None:
    """All of a round wait for all of its messages; guesses of one more cost the node nothing."""
    flat = NodeCosts(CostTable((1, 32), (5e-3, 5.1e-3)), CostTable((32,), (5e-3,)))
    for medium, expected in (("cell", [16, 0, 0]), ("", [6, 5, 5])):
        pool = DraftPool()
        for name in "abc":
            pool.add(DraftNode(name, flat, Link(2e6, medium=medium, frame_s=5e-4)))
        assert placed(pool, 16) == expected


def test_streams_part_where_guesses_take_longer_than_messages() -> None:
    growing = NodeCosts(CostTable((1, 32), (1e-3, 32e-3)), CostTable((32,), (5e-3,)))
    pool = DraftPool()
    for name in "ab":
        pool.add(DraftNode(name, growing, Link(20e6, medium="cell", frame_s=5e-4)))
    assert placed(pool, 8) == [4, 4]


@pytest.mark.parametrize("medium", ["cell", ""])
def test_no_stream_goes_to_a_node_that_is_full(medium: str) -> None:
    flat = NodeCosts(CostTable((1, 32), (5e-3, 5.1e-3)), CostTable((32,), (5e-3,)))
    pool = DraftPool()
    for name, link in (("a", Link(medium=medium)), ("b", Link(rtt_s=1.0, medium=medium))):
        pool.add(DraftNode(name, flat, link, max_streams=4))
    assert placed(pool, 6) == [4, 2]
    placed(pool, 2)
    spec = make_spec(9)
    assert pool.choose(set(), Stream(spec, list(spec.token_ids), None)) is None


@pytest.mark.parametrize(("num_rounds", "chosen"), [(2, "near"), (200, "quick")])
def test_what_a_text_takes_to_tell_counts_for_as_long_as_it_is_used(
    num_rounds: int, chosen: str
) -> None:
    pool = DraftPool()
    # Rounds of the one are some 5 ms shorter; the other is told 1,000 tokens 33 ms sooner.
    at_once = CostTable((32,), (1e-6,))
    pool.add(DraftNode("near", replace(costs(3e-3), prefill=at_once)))
    pool.add(DraftNode("quick", replace(costs(1e-3), prefill=at_once), Link(rate_bps=1e6)))
    spec = make_spec(ONE, prompt=(5,) * 1000, max_tokens=round(2.5 * num_rounds))
    stream = Stream(spec, list(spec.token_ids), None)
    assert pool.choose(set(), stream) is pool[chosen]


def test_how_alike_streams_are_is_learnt_of_each_when_it_is_over_and_once() -> None:
    pool = DraftPool()
    pool.add(DraftNode("a", COSTS))
    model = pool["a"].model
    before = model.population.weight
    for number in range(1, 41):
        stream = Stream(make_spec(number), list(PROMPT), None)
        pool.place(stream)
        stream.acceptance.observe(8, 4)
        pool.displace(stream)
        assert model.population.weight == before
        pool.place(stream)
        stream.acceptance.observe(8, 4)
        pool.ended(stream)
        before = model.population.weight
    assert before > 10.0
    assert model.of_one().weight == before


def test_nodes_of_one_model_share_what_is_known_of_its_guesses() -> None:
    pool = DraftPool()
    for name, model_hash in (("a", "one"), ("b", "one"), ("c", "two"), ("d", ""), ("e", "")):
        pool.add(DraftNode(name, COSTS, model=pool.model(model_hash)))
    for _ in range(200):
        pool["a"].acceptance.observe(4, 0)
    assert pool["b"].acceptance.alpha < 0.2
    untried = [name for name in "abcde" if pool[name].acceptance.is_untried]
    assert untried == ["c", "d", "e"]
    pool.remove("a")
    pool.remove("b")
    # A node that comes back has not become another model.
    assert pool.model("one").acceptance.alpha < 0.2


def test_a_stream_that_has_not_guessed_is_what_the_others_are_by_now() -> None:
    pool = DraftPool()
    pool.add(DraftNode("a", COSTS))
    waiting = Stream(make_spec(1), list(PROMPT), None)
    pool.place(waiting)
    assert waiting.view().alpha == pytest.approx(0.7)
    for _ in range(200):
        pool["a"].acceptance.observe(4, 0)
    assert waiting.view().alpha < 0.2


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
    # A prior of 2.1 guesses right and 0.9 wrong, of which 12 wrong ones leave 0.998^12.
    fade = 0.998**12
    wrong = 0.9 * fade + sum(0.998**k for k in range(12))
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


def test_a_way_that_takes_longer_is_planned_as_longer() -> None:
    node = DraftNode("a", costs(0.01), Link(rtt_s=0.02), target_rtt_s=0.001)
    for _ in range(100):
        node.pace.way_seen(0.05, node.link_s((4,), 1), node.link.rtt_s)
    assert node.rtt_s == pytest.approx(0.05, rel=0.01)
    assert node.view().link.rtt_s == pytest.approx(0.051, rel=0.01)
    # One that waits for ten seconds tells no more than some that wait for a tenth.
    node.pace.way_seen(10.0, node.link_s((4,), 1), node.link.rtt_s)
    assert node.rtt_s < 0.07
    for _ in range(200):
        node.pace.way_seen(0.0, node.link_s((4,), 1), node.link.rtt_s)
    assert node.rtt_s == pytest.approx(0.0, abs=1e-6)
    # Without rounds, what Pings say is right again some seconds later.
    node.pace.seen(0.0)
    node.pace.forget(60.0)
    assert node.rtt_s == pytest.approx(0.02, rel=0.01)


def test_a_node_that_was_slow_is_tried_again_some_minutes_later() -> None:
    drafts = DraftPool()
    throttled, other = DraftNode("a", costs(0.01)), DraftNode("b", costs(0.015))
    drafts.add(throttled)
    drafts.add(other)
    for _ in range(40):
        throttled.pace.speed.observe(4.0, throttled.pace.speed.factor)
    throttled.pace.seen(100.0)
    chosen = []
    for now in (101.0, 109.0, 161.0, 221.0, 281.0):
        throttled.pace.forget(now)
        chosen.append(drafts.choose(set()))
    # 4, 4, 2, 1.4 and 1.2 times as slow as it was measured.
    assert chosen == [other, other, other, throttled, throttled]
    # While it has rounds nothing is forgotten.
    throttled.pace.seen(280.0)
    before = throttled.pace.speed.factor
    throttled.pace.forget(285.0)
    assert throttled.pace.speed.factor == before
    # Of one that never had a round there is nothing to forget.
    other.pace.forget(1000.0)
    assert other.pace.speed.factor == 1.0


def test_texts_are_read_in_pieces_whatever_sizes_a_table_has() -> None:
    # A token alone takes as long as a piece of 32.
    flat = NodeCosts(COSTS.decode, CostTable((1, 32), (0.01, 0.01)))
    assert DraftNode("a", flat).reading_s(320) == pytest.approx(0.1)
    assert DraftNode("a", costs(0.01)).reading_s(320) == pytest.approx(0.1)


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
