"""Rounds on trial: guesses beside plain passes teach what rounds would earn, and change no text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from nodes.scheduler import LEASE_WHILE_OPENING_TOKENS, SchedulerState
from nodes.scheduler.drafting.tries import Trial, Tries
from nodes.scheduler.instructions import Instruction, leases_of
from nodes.stream import StreamId
from policies.acceptance import AcceptanceEstimate
from policies.baselines import POLICIES
from policies.plan import Observation, Plan
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    TWO,
    FixedPolicy,
    commit,
    commit_one,
    draft_requests,
    guesses,
    length_of,
    open_stream,
    verify_requests,
)

NUM_FIRST, MAX_FIRST, INTERVAL = 4, 24, 32
GAMMA, STOP_PERCENT = 4, 10


def make(*, lookup: bool = False) -> SchedulerState:
    scheduler = SchedulerState(FixedPolicy(), TARGET_COSTS, lookup=lookup, trials=True)
    scheduler.draft_joined("a", DRAFT_COSTS)
    return scheduler


def acceptance(scheduler: SchedulerState) -> AcceptanceEstimate:
    stream = scheduler.stream(ONE)
    assert stream is not None
    return stream.acceptance


def asked(out: Sequence[Instruction]) -> tuple[int, int]:
    """Round and prefix of the one stream in the one request to a draft node."""
    ((node, request),) = draft_requests(out)
    (entry,) = request.entries
    assert (node, entry.gamma, entry.stop_percent) == ("a", GAMMA, STOP_PERCENT)
    return request.round, entry.prefix_len + entry.num_new_tokens


def try_once(scheduler: SchedulerState, out: Sequence[Instruction]) -> list[Instruction]:
    """Answer a trial with one wrong guess, and let the text decide it; what follows from that."""
    scheduler.drafted("a", guesses(asked(out)[0], ONE, asked(out)[1], 50), 0.0)
    return commit_one(scheduler, ONE)


def test_a_stream_is_tried_beside_plain_passes_before_its_first_round() -> None:
    scheduler = make()
    out = open_stream(scheduler, ONE, "a")
    (lease,) = leases_of(out)
    # Short ones: its rounds begin soon.
    assert (lease.prefix_len, lease.num_tokens) == (3, LEASE_WHILE_OPENING_TOKENS)
    for _ in range(NUM_FIRST):
        assert verify_requests(out) == []
        out = try_once(scheduler, out)
    # No trial more. The lease runs out, then it goes in a round.
    assert draft_requests(out) == []
    while not draft_requests(out):
        assert length_of(scheduler, ONE) < 3 + MAX_FIRST
        out = commit_one(scheduler, ONE)
    ((_, request),) = draft_requests(out)
    assert (request.entries[0].gamma, request.entries[0].stop_percent) == (4, 0)
    verifying = scheduler.drafted(
        "a", guesses(request.round, ONE, length_of(scheduler, ONE), 7, 8), 0.0
    )
    (verify,) = verify_requests(verifying)
    assert verify.draft_token_ids == (7, 8)


@pytest.mark.parametrize(
    ("guessed", "text", "accepted", "fails"),
    [
        ((50,), (9,), 0, 1),
        ((9, 50), (9, 9), 1, 1),
        ((9, 9), (9, 9), 2, 1),  # it stopped there, before its cap
        ((9, 9, 9, 9), (9, 9, 9, 9), 4, 0),
        ((), (), 0, 1),
    ],
)
def test_what_a_trial_tells_is_what_a_round_would(
    guessed: tuple[int, ...], text: tuple[int, ...], accepted: int, fails: int
) -> None:
    scheduler = make()
    round_id, prefix_len = asked(open_stream(scheduler, ONE, "a"))
    before, of_node = acceptance(scheduler), scheduler._drafts["a"].acceptance
    successes, failures, node_successes = before.successes, before.failures, of_node.successes
    scheduler.drafted("a", guesses(round_id, ONE, prefix_len, *guessed), 0.0)
    for token_id in text:
        assert acceptance(scheduler).failures == failures
        scheduler.committed(commit(ONE, length_of(scheduler, ONE), [token_id]), 0.0)
    after = acceptance(scheduler)
    assert after.successes == pytest.approx(0.97 * successes + accepted)
    assert after.failures == pytest.approx(0.97 * failures + fails)
    assert of_node.successes == pytest.approx(0.998 * node_successes + accepted)


def test_guesses_that_come_after_the_text_are_compared_at_once() -> None:
    scheduler = make()
    round_id, prefix_len = asked(open_stream(scheduler, ONE, "a"))
    for _ in range(3):
        # Nothing more is asked for meanwhile.
        assert draft_requests(commit_one(scheduler, ONE)) == []
    before = acceptance(scheduler).successes
    out = scheduler.drafted("a", guesses(round_id, ONE, prefix_len, 9, 9, 50), 0.0)
    assert acceptance(scheduler).successes == pytest.approx(0.97 * before + 2)
    # The next one begins where the text is by then.
    assert asked(out) == (round_id + 1, 6)


def test_a_draft_node_that_is_slow_to_answer_does_not_hold_the_first_round_up() -> None:
    scheduler = make()
    round_id, prefix_len = asked(open_stream(scheduler, ONE, "a"))
    out: list[Instruction] = []
    while not draft_requests(out):
        out = commit_one(scheduler, ONE)
    assert MAX_FIRST <= length_of(scheduler, ONE) - 3 <= MAX_FIRST + LEASE_WHILE_OPENING_TOKENS
    before = acceptance(scheduler).successes
    # The trial is forgotten with the first round, or the text that the node has to read before it.
    scheduler.drafted("a", guesses(round_id, ONE, prefix_len, 9), 0.0)
    commit_one(scheduler, ONE)
    assert acceptance(scheduler).successes == before


def test_a_stream_that_stays_plain_is_tried_again_now_and_then() -> None:
    def all_plain(seen: Observation) -> Plan:
        return Plan(plain=tuple(view.stream_id for view in seen.streams))

    scheduler = SchedulerState(all_plain, TARGET_COSTS, trials=True)
    scheduler.draft_joined("a", DRAFT_COSTS)
    out = open_stream(scheduler, ONE, "a", max_tokens=3000)
    for _ in range(NUM_FIRST):
        out = try_once(scheduler, out)
    begun = []
    for _ in range(60 * INTERVAL):
        if draft_requests(out):
            begun.append(length_of(scheduler, ONE))
            out = try_once(scheduler, out)
        else:
            out = commit_one(scheduler, ONE)
    # Ever more seldom: it costs something where the draft shares the target's machine.
    gaps = [b - a for a, b in itertools.pairwise(begun)]
    assert gaps == [2 * INTERVAL, 4 * INTERVAL, 8 * INTERVAL, 512, 512]


@pytest.mark.parametrize("gamma", [0, 3])
def test_whose_client_chose_the_guesses_is_not_tried(gamma: int) -> None:
    scheduler = make()
    scheduler.admit(make_spec(ONE, max_tokens=LONG), gamma)
    if gamma:
        scheduler.draft_ready("a", ONE, 1, 0.0)
    out = scheduler.target_ready(ONE, 1, 0.0)
    assert [r.entries[0].gamma for _, r in draft_requests(out)] == ([gamma + 1] if gamma else [])


def test_nobody_is_tried_while_the_node_drafts_for_others() -> None:
    scheduler = make()
    scheduler.admit(make_spec(ONE, max_tokens=LONG), 3)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    ((_, request),) = draft_requests(scheduler.target_ready(ONE, 1, 0.0))
    assert draft_requests(open_stream(scheduler, TWO, "a")) == []
    # With its answer the node is free.
    guessed = guesses(request.round, ONE, length_of(scheduler, ONE), 7, 7, 7)
    out = scheduler.drafted("a", guessed, 0.0)
    ((_, trial),) = draft_requests([*out, *commit_one(scheduler, TWO)])
    assert [entry.stream_id for entry in trial.entries] == [TWO]


def test_beside_a_stream_that_guesses_there_is_no_probation() -> None:
    scheduler = make()
    out = open_stream(scheduler, ONE, "a")
    for _ in range(NUM_FIRST):
        out = try_once(scheduler, out)
    while not draft_requests(out):
        out = commit_one(scheduler, ONE)
    open_stream(scheduler, TWO, "a")
    stream = scheduler.stream(TWO)
    assert stream is not None
    assert not stream.is_on_probation
    # Another draft model may be a bad one: on it, a stream is tried first.
    scheduler.draft_joined("b", DRAFT_COSTS)
    third = StreamId(3)
    scheduler.admit(make_spec(third, max_tokens=LONG), None)
    stream = scheduler.stream(third)
    assert stream is not None
    assert stream.draft is not None
    assert stream.draft.node == "b"
    scheduler.draft_ready("b", third, 1, 0.0)
    scheduler.target_ready(third, 1, 0.0)
    assert stream.is_on_probation


@pytest.mark.parametrize(("max_tokens", "seen"), [(LONG, 9), (4, 1)])
def test_a_plan_does_not_change_for_last_tokens(max_tokens: int, seen: int) -> None:
    """A text that ends gives its place to another one; one of a few tokens never guesses much."""
    scheduler = make()
    scheduler.admit(make_spec(ONE, max_tokens=max_tokens), None)
    stream = scheduler.stream(ONE)
    assert stream is not None
    stream.token_ids += [9] * (max_tokens - 1)
    assert stream.tokens_left == 1
    assert stream.view().tokens_left == seen


def test_where_nobody_guesses_a_new_stream_is_tried() -> None:
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS, trials=True)
    scheduler.draft_joined("a", DRAFT_COSTS)
    out = open_stream(scheduler, ONE, "a")
    for _ in range(NUM_FIRST):
        out = try_once(scheduler, out)
    open_stream(scheduler, TWO, "a")
    stream = scheduler.stream(TWO)
    assert stream is not None
    assert stream.is_on_probation


def test_a_trial_ends_with_its_draft_node() -> None:
    scheduler = make()
    round_id, prefix_len = asked(open_stream(scheduler, ONE, "a"))
    scheduler.draft_lost("a", 0.0)
    assert scheduler.drafted("a", guesses(round_id, ONE, prefix_len, 9), 0.0) == []
    scheduler.draft_joined("b", DRAFT_COSTS)
    out = scheduler.draft_ready("b", ONE, 2, 0.0)
    ((node, request),) = draft_requests(out)
    assert (node, request.entries[0].gamma) == ("b", GAMMA)


def test_a_text_too_short_to_be_tried_says_so() -> None:
    scheduler = make()
    open_stream(scheduler, ONE, "a", max_tokens=2)
    scheduler.committed(commit(ONE, 3, [9, 9], finish_reason="length"), 0.0)
    _, reason = scheduler.take_figures(ONE)
    assert reason == "draft off: the text ended before its guesses were tried"


def test_passes_beside_a_trial_teach_nothing_of_the_target() -> None:
    scheduler = make()
    round_id, prefix_len = asked(open_stream(scheduler, ONE, "a"))
    assert scheduler._target is not None
    before = scheduler._target.now()
    scheduler.committed(commit(ONE, 3, [9], pass_s=9.0), 0.0)
    assert scheduler._target.now() == before
    scheduler.drafted("a", guesses(round_id, ONE, prefix_len, 50), 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.tries is not None
    # The next trial has begun; without it the pass counts.
    stream.tries.trial = None
    scheduler.committed(commit(ONE, 4, [9], pass_s=9.0), 0.0)
    assert scheduler._target.now() != before


@pytest.mark.parametrize(
    ("guessed", "token_ids", "right"),
    [
        (None, (1, 2, 3, 4), None),
        ((), (1, 2), 0),
        ((3,), (1, 2), None),
        ((3,), (1, 2, 3), 1),
        ((4,), (1, 2, 3), 0),
        ((3, 4), (1, 2, 3), None),
        ((3, 5), (1, 2, 3, 4), 1),
    ],
)
def test_a_trial_is_decided_by_the_text(
    guessed: tuple[int, ...] | None, token_ids: tuple[int, ...], right: int | None
) -> None:
    assert Trial(1, 2, 4, guessed).num_right(token_ids) == right


@pytest.mark.parametrize(("num_right", "num_first"), [(4, 0), (0, NUM_FIRST)])
def test_what_other_streams_of_a_draft_node_earn_spares_trials(
    num_right: int, num_first: int
) -> None:
    scheduler = make()
    for _ in range(20):
        scheduler._drafts["a"].acceptance.observe(4, num_right, 4)
    scheduler.admit(make_spec(ONE), None)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.tries is not None
    assert stream.tries.num_first == num_first
    assert stream.is_on_probation == (num_first > 0)


def test_where_enough_is_known_of_a_draft_node_the_plan_goes_by_that() -> None:
    scheduler = make()
    for _ in range(60):
        scheduler._drafts["a"].acceptance.observe(4, 0, 4)
    scheduler.admit(make_spec(ONE, max_tokens=LONG), None)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.tries is not None
    assert not stream.is_on_probation
    # It is looked at again later, for streams differ.
    assert stream.tries.is_due(INTERVAL)


def test_a_draft_node_with_little_to_gain_at_best_is_tried_once() -> None:
    """Four trials of one that takes as long as the target cost more on cores that both share."""
    scheduler = SchedulerState(FixedPolicy(), TARGET_COSTS, trials=True)
    scheduler.draft_joined("a", TARGET_COSTS)
    out = open_stream(scheduler, ONE, "a")
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.tries is not None
    assert stream.tries.num_first == 1
    assert stream.is_on_probation
    try_once(scheduler, out)
    assert not stream.is_on_probation
    # And not again in an answer of usual length.
    assert not stream.tries.is_due(stream.tries.last + 255)
    assert stream.tries.is_due(stream.tries.last + 256)


@pytest.mark.parametrize(
    ("gain", "at_best", "num_first"),
    [(0.9, 1.5, 4), (1.2, 1.5, 2), (1.4, 1.5, 0), (1.0, 1.5, 4), (1.0, 1.05, 1), (1.05, 1.05, 1)],
)
def test_between_little_and_much_there_are_some_trials(
    gain: float, at_best: float, num_first: int
) -> None:
    tries = Tries()
    tries.expect(gain, at_best=at_best)
    assert tries.num_first == num_first
    tries.expect(gain, at_best=at_best, is_known=True)
    assert tries.num_first == 0
