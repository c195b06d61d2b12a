"""Prompt lookup in the scheduler: what it guesses, what it learns, and when it is used."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nodes.messages import CloseStreamNotice
from nodes.scheduler import SchedulerState
from nodes.scheduler.drafting.lookup import LOOKUP, Lookup
from nodes.scheduler.instructions import ToDraft
from nodes.scheduler.stream import Drafting
from policies.confidence import Spread
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import Observation, Plan
from tests.nodes.builders import make_spec
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    draft_requests,
    length_of,
    verify_requests,
)

COPY = tuple(range(10, 40))
TARGET = NodeCosts(CostTable((1, 32), (10e-3, 12e-3)), CostTable((32,), (12e-3,)))
DRAFT = NodeCosts(CostTable((1, 32), (2e-3, 2e-3)), CostTable((32,), (2e-3,)))


def opened(prompt: tuple[int, ...], **changes: object) -> Lookup:
    lookup = Lookup()
    lookup.open(make_spec(prompt=prompt, max_tokens=200, **changes))
    return lookup


def test_it_guesses_what_followed_last_time() -> None:
    lookup = opened((*COPY, 10, 11, 12))
    assert lookup.propose(ONE, 3, 0.0).token_ids == (13, 14, 15)
    lookup.commit(ONE, (13, 99))
    assert lookup.propose(ONE, 3, 0.0).token_ids == ()


def test_the_longer_the_match_the_further_it_guesses() -> None:
    short, long = opened((*COPY, 10, 11)), opened((*COPY, *COPY[:20]))
    assert len(short.propose(ONE, 8, 0.4).token_ids) < len(long.propose(ONE, 8, 0.4).token_ids)
    assert short.propose(ONE, 8, 0.6).token_ids == ()
    assert long.propose(ONE, 8, 1.0).token_ids == ()


def test_it_knows_what_it_would_have_been_worth() -> None:
    """A text that repeats itself, and one that never does."""
    copied, fresh = opened(COPY), opened(COPY)
    before = copied.acceptance(ONE).alpha
    source = random.Random(2)
    for token_id in COPY * 4:
        copied.commit(ONE, (token_id,))
        fresh.commit(ONE, (source.randrange(100, 10**6),))
    assert copied.acceptance(ONE).alpha > 0.75 > before > fresh.acceptance(ONE).alpha


def test_how_the_tokens_arrive_changes_nothing() -> None:
    source = random.Random(5)
    tokens = [source.randrange(4) for _ in range(300)]
    one, many = opened(COPY), opened(COPY)
    for token_id in tokens:
        one.commit(ONE, (token_id,))
    while tokens:
        count = source.randrange(1, 9)
        many.commit(ONE, tokens[:count])
        del tokens[:count]
    assert one.acceptance(ONE) == many.acceptance(ONE)
    assert one.propose(ONE, 8, 0.2).token_ids == many.propose(ONE, 8, 0.2).token_ids


def test_texts_are_indexed_while_there_is_room() -> None:
    lookup = Lookup()
    for number in range(1, 10):
        lookup.open(make_spec(number, prompt=COPY * 300, max_tokens=1000))
    # What they may yet become counts too, so that promises are kept.
    lookup.open(make_spec(10, prompt=COPY, max_tokens=20_000))
    assert not lookup.holds(make_spec(10).stream_id)
    assert lookup.holds(ONE)
    assert not lookup.holds(make_spec(9).stream_id)
    assert lookup.propose(make_spec(9).stream_id, 4, 0.0).token_ids == ()
    lookup.commit(make_spec(9).stream_id, (1,))
    for number in range(1, 10):
        lookup.close(make_spec(number).stream_id)
    lookup.open(make_spec(9, prompt=COPY * 300, max_tokens=1000))
    assert lookup.holds(make_spec(9).stream_id)


def make(policy: object = None) -> SchedulerState:
    return SchedulerState(policy or FixedPolicy(), TARGET, lookup=True)  # type: ignore[arg-type]


def begin(scheduler: SchedulerState, prompt: tuple[int, ...], gamma: int | None = None) -> list:
    spec = make_spec(ONE, prompt=prompt, max_tokens=400)
    return [*scheduler.admit(spec, gamma), *scheduler.target_ready(ONE, 1, 0.0)]


def test_without_a_draft_node_a_round_goes_straight_to_the_target() -> None:
    scheduler = make()
    instructions = begin(scheduler, (*COPY, 10, 11, 12, 13))
    (request,) = verify_requests(instructions)
    assert request.draft_token_ids == (14, 15, 16, 17)
    assert draft_requests(instructions) == []


def test_a_match_is_not_capped_by_what_a_plan_expects_of_guesses_on_average() -> None:
    def policy(observation: Observation) -> Plan:
        return replace(FixedPolicy(gamma=2)(observation), is_cheapest=True)

    (request,) = verify_requests(begin(make(policy), COPY * 3))
    assert len(request.draft_token_ids) == 16
    # What a client asked for is.
    (request,) = verify_requests(begin(make(policy), COPY * 3, gamma=2))
    assert len(request.draft_token_ids) == 2


@pytest.mark.parametrize(("gamma", "looks_up"), [(0, False), (4, True), (None, True)])
def test_a_client_may_do_without(gamma: int | None, looks_up: bool) -> None:
    scheduler = make()
    begin(scheduler, COPY, gamma)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.is_by_lookup is looks_up


def play(scheduler: SchedulerState, tokens: list[int], now: float) -> list:
    """The target commits tokens one by one; the draft node has no guesses."""
    out = []
    stream = scheduler.stream(ONE)
    assert stream is not None
    for token_id in tokens:
        now += 0.01
        if isinstance(stream.phase, Drafting):
            out += answer(scheduler, stream.phase.round_id, "a", now - 0.008)
        out += scheduler.committed(commit(ONE, length_of(scheduler, ONE), [token_id]), now)
    return out


def test_a_stream_that_copies_leaves_its_draft_node_and_comes_back_when_it_stops() -> None:
    seen: list[Observation] = []

    def policy(observation: Observation) -> Plan:
        seen.append(observation)
        return joint_plan(observation)

    scheduler = make(policy)
    scheduler.draft_joined("a", DRAFT, spread=Spread((0.4, 0.6), (1.0, 0.0)))
    begin(scheduler, COPY * 2)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert not stream.is_by_lookup
    moved = play(scheduler, list(COPY) * 3, 1.0)
    assert stream.is_by_lookup
    assert ToDraft("a", CloseStreamNotice(ONE, 1)) in moved
    assert [view.name for view in seen[-1].drafts] == [LOOKUP]
    assert [view.draft for view in seen[-1].streams] == [LOOKUP]
    # The text goes on and on, and a pass of many tokens costs little: more than a model is asked.
    entries = [entry for request in verify_requests(moved) for entry in request.entries]
    assert max(entry.num_draft_tokens for entry in entries) > 8
    source = random.Random(1)
    play(scheduler, [source.randrange(1000, 9999) for _ in range(250)], 5.0)
    assert not stream.is_by_lookup
    assert stream.draft is not None
    assert stream.draft.node == "a"
    assert [view.name for view in seen[-1].drafts] == ["a"]


def test_a_draft_that_was_bad_for_a_stream_is_tried_again_when_lookup_has_nothing_more() -> None:
    scheduler = make(joint_plan)
    scheduler.draft_joined("a", DRAFT, spread=Spread((0.8, 0.2), (1.0, 0.0)))
    scheduler.admit(make_spec(ONE, prompt=COPY * 2, max_tokens=2000), None)
    scheduler.target_ready(ONE, 1, 0.0)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    for _ in range(100):
        stream.acceptance.observe(4, 0)
    play(scheduler, list(COPY) * 3, 1.0)
    assert stream.is_by_lookup
    source = random.Random(1)
    # That it was bad is known for a while, then the others of its model say more.
    play(scheduler, [source.randrange(1000, 9999) for _ in range(300)], 5.0)
    assert stream.is_by_lookup
    play(scheduler, [source.randrange(1000, 9999) for _ in range(250)], 9.0)
    assert stream.draft is not None
    assert stream.draft.node == "a"
    assert stream.acceptance.alpha > 0.3


def test_a_stream_whose_draft_node_does_not_answer_goes_by_lookup() -> None:
    scheduler = make(joint_plan)
    scheduler.draft_joined("a", DRAFT, spread=Spread((1.0,), (0.95,)))
    begin(scheduler, COPY * 2)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    # The lease from before the node was ready ends, then it is asked.
    play(scheduler, list(COPY)[:2], 0.1)
    assert isinstance(stream.phase, Drafting)
    scheduler.tick(100.0)
    assert stream.draft is not None
    assert stream.draft.is_late
    play(scheduler, [*COPY[2:], *COPY], 101.0)
    assert stream.is_by_lookup
    # It is not given to that node again, not for a while.
    assert stream.refused_by == {"a"}


def test_where_a_client_chose_how_much_to_guess_lookup_only_stands_in() -> None:
    scheduler = make(joint_plan)
    begin(scheduler, COPY * 2, gamma=4)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.is_by_lookup
    scheduler.draft_joined("a", DRAFT)
    assert stream.draft is not None
    assert stream.draft.node == "a"
    scheduler.draft_lost("a", 1.0)
    assert stream.is_by_lookup


def test_what_was_learnt_with_a_node_that_was_lost_is_known_when_it_comes_back() -> None:
    scheduler = make(joint_plan)
    scheduler.draft_joined("a", DRAFT)
    begin(scheduler, COPY)
    stream = scheduler.stream(ONE)
    assert stream is not None
    stream.acceptance.observe(4, 0)
    learnt = stream.acceptance
    scheduler.draft_lost("a", 1.0)
    assert stream.acceptance is not learnt
    assert stream.known["a"] is learnt


def test_another_stream_is_none_of_its_business() -> None:
    scheduler = make()
    begin(scheduler, COPY)
    scheduler.admit(make_spec(TWO, prompt=COPY * 2, max_tokens=9), None)
    scheduler.cancel(TWO, 1.0)
    assert scheduler.stream(TWO) is None
    assert length_of(scheduler, ONE) == len(COPY)
