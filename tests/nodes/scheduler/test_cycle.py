from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from nodes.scheduler.cycle import CycleState
from policies.joint import joint_plan
from policies.plan import (
    Batch,
    BatchTimes,
    DraftView,
    Observation,
    Option,
    Plan,
    Prediction,
    StreamView,
)
from policies.priced import price_of
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    FixedPolicy,
    commit,
    commit_one,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
)


def replan(state: CycleState, seen: Observation, now: float) -> None:
    state.take(state.begin(seen, now).make())


def observe(*stream_ids: int, alpha: float = 0.8, plain: tuple[int, ...] = ()) -> Observation:
    """Streams on draft node "a", those of `plain` on none."""
    streams = tuple(
        StreamView(s, alpha, 100, draft=None if s in plain else "a") for s in stream_ids
    )
    return Observation(streams, TARGET_COSTS, (DraftView("a", DRAFT_COSTS),))


def make_plan(
    *batches: Mapping[int, int], plain: tuple[int, ...] = (), price_s: float, is_cheapest: bool
) -> Plan:
    return Plan(
        tuple(Batch(tuple(members), tuple(members.values())) for members in batches),
        plain,
        prediction=Prediction(0.1, "", price_s, 1.0),
        is_cheapest=is_cheapest,
    )


class Asked:
    """A policy that returns the plan it holds."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, observation: Observation) -> Plan:
        return self.plan


def in_force(*batches: Mapping[int, int], is_cheapest: bool) -> tuple[CycleState, Asked]:
    """A state with a plan that was taken, so low was its price."""
    policy = Asked(make_plan(*batches, price_s=0.0, is_cheapest=is_cheapest))
    state = CycleState(policy)
    replan(state, observe(*(s for members in batches for s in members)), 0.0)
    return state, policy


def groups(state: CycleState) -> list[dict[int, int]]:
    return [{int(s): gamma for s, gamma in batch.gammas.items()} for batch in state.batches]


# -- when a plan is made anew ----------------------------------------------------------------------


def test_a_plan_is_made_anew_when_acceptance_drifted_and_some_rounds_have_passed() -> None:
    state, _ = in_force({1: 4}, is_cheapest=True)
    assert not state.is_due
    state.committed([(1, 0.86)])
    for _ in range(6):
        state.committed([(1, 0.8)])
        assert not state.is_due
    state.committed([])
    assert state.is_due
    replan(state, observe(1, alpha=0.86), 0.0)
    for _ in range(20):
        state.committed([(1, 0.86)])
        assert not state.is_due


def test_acceptance_that_stays_is_looked_at_after_many_rounds() -> None:
    state, _ = in_force({1: 4}, is_cheapest=True)
    for _ in range(127):
        state.committed([(1, 0.84), (99, 0.1)])
        assert not state.is_due
    state.committed([(1, 0.84)])
    assert state.is_due


def test_a_plan_is_made_anew_at_once_when_members_change() -> None:
    state, _ = in_force({1: 4}, is_cheapest=True)
    state.members_changed()
    assert state.is_due


def test_every_change_of_streams_and_draft_nodes_makes_a_plan() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler("a", "b", policy=policy)
    scheduler.admit(make_spec(ONE), None)
    assert len(policy.seen) == 0
    scheduler.target_ready(ONE, 1, 0.0)
    assert len(policy.seen) == 1
    open_stream(scheduler, TWO)
    assert len(policy.seen) == 2
    scheduler.draft_failed("b", TWO, 1, "b is full", 0.0)
    assert len(policy.seen) == 3
    scheduler.cancel(TWO, 0.0)
    assert len(policy.seen) == 4
    scheduler.draft_lost("a", 0.0)
    assert len(policy.seen) == 5
    scheduler.committed(commit(ONE, 3, [9], finish_reason="stop"), 0.0)
    assert len(policy.seen) == 6


def test_a_late_draft_makes_a_plan_and_its_late_answer_another() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler("a", policy=policy)
    open_stream(scheduler, ONE, "a")
    before = len(policy.seen)
    scheduler.tick(9.0)
    assert [view.draft for view in policy.seen[-1].streams] == [None]
    scheduler.drafted("a", guesses(1, ONE, 3), 9.0)
    commit_one(scheduler, ONE, 9.0)
    assert [view.draft for view in policy.seen[-1].streams] == ["a"]
    assert len(policy.seen) == before + 2


def test_rounds_that_change_what_is_known_make_a_plan() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler("a", policy=policy)
    open_stream(scheduler, ONE, "a")
    made = []
    for round_id in range(1, 10):
        length = length_of(scheduler, ONE)
        scheduler.drafted("a", guesses(round_id, ONE, length, 8, 8, 8, 8), 0.0)
        before = len(policy.seen)
        scheduler.committed(commit(ONE, length, [8, 8, 8, 8, 9], num_draft_tokens=4), 0.0)
        made += [round_id] if len(policy.seen) > before else []
    # All guesses were right: far from what was expected, but only then is it looked at.
    assert made == [8]
    assert policy.seen[-1].streams[0].alpha > 0.8


# -- how much of the plan in force is kept ---------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (1.039, [{1: 4, 2: 4}, {3: 4, 4: 8}]),
        (1.041, [{1: 8, 2: 8, 3: 8, 4: 8}]),
    ],
)
def test_new_streams_join_the_plan_in_force_unless_a_new_one_gains_4_percent(
    gain: float, expected: list[dict[int, int]]
) -> None:
    state, policy = in_force({1: 4, 2: 4}, {3: 4}, is_cheapest=True)
    seen = observe(1, 2, 3, 4, alpha=0.3)
    joined = make_plan({1: 4, 2: 4}, {3: 4, 4: 8}, price_s=1.0, is_cheapest=True)
    regrouped = make_plan({1: 8, 2: 8}, {3: 8, 4: 8}, price_s=1.0, is_cheapest=True)
    # With the new gammas the old batches are worse: more guesses, and few are right.
    assert price_of(seen, regrouped) > price_of(seen, joined)
    price_s = price_of(seen, joined) / gain
    policy.plan = make_plan({1: 8, 2: 8, 3: 8, 4: 8}, price_s=price_s, is_cheapest=True)
    replan(state, seen, 100.0)
    assert groups(state) == expected


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (1.039, [{1: 2, 2: 2}, {3: 2}]),
        (1.041, [{1: 2, 2: 2, 3: 2}]),
    ],
)
def test_else_the_batches_in_force_get_the_new_gammas(
    gain: float, expected: list[dict[int, int]]
) -> None:
    state, policy = in_force({1: 16, 2: 16}, {3: 16}, is_cheapest=True)
    seen = observe(1, 2, 3, alpha=0.1)
    kept = make_plan({1: 16, 2: 16}, {3: 16}, price_s=1.0, is_cheapest=True)
    regrouped = make_plan({1: 2, 2: 2}, {3: 2}, price_s=1.0, is_cheapest=True)
    price_s = price_of(seen, regrouped) / gain
    assert price_of(seen, kept) > 1.04 * price_s
    policy.plan = make_plan({1: 2, 2: 2, 3: 2}, price_s=price_s, is_cheapest=True)
    replan(state, seen, 100.0)
    assert groups(state) == expected


def test_policies_that_do_not_look_for_the_cheapest_get_their_gammas_and_number_of_batches() -> (
    None
):
    state, policy = in_force({1: 4, 2: 4}, {3: 4}, is_cheapest=False)
    policy.plan = make_plan({1: 3}, {2: 3, 3: 3}, price_s=1e9, is_cheapest=False)
    replan(state, observe(1, 2, 3), 0.0)
    assert groups(state) == [{1: 3, 2: 3}, {3: 3}]
    policy.plan = make_plan({1: 3, 2: 3, 3: 3}, price_s=1e9, is_cheapest=False)
    replan(state, observe(1, 2, 3), 0.0)
    assert groups(state) == [{1: 3, 2: 3, 3: 3}]


def test_streams_that_left_are_forgotten_and_so_are_batches_without_any() -> None:
    state, policy = in_force({1: 4, 2: 4}, {3: 4}, is_cheapest=True)
    policy.plan = make_plan({1: 4}, price_s=1e9, is_cheapest=True)
    replan(state, observe(1), 0.0)
    assert groups(state) == [{1: 4}]
    assert state.plain == ()


def test_a_stream_that_cannot_guess_any_more_leaves_its_batch_for_plain_decoding() -> None:
    state, policy = in_force({1: 4, 2: 4}, is_cheapest=True)
    policy.plan = make_plan({1: 4}, plain=(2,), price_s=1e9, is_cheapest=True)
    replan(state, observe(1, 2, plain=(2,)), 0.0)
    assert groups(state) == [{1: 4}]
    assert state.plain == (2,)
    assert state.why_plain(2) == "draft off: no draft node holds the stream"
    assert state.why_plain(1) == ""


def test_no_guesses_are_begun_for_a_gain_below_4_percent_and_the_reason_is_told() -> None:
    seen = observe(1, 2)
    plain_s = price_of(seen, Plan(plain=(1, 2)))
    for gain, begins in ((1.039, False), (1.041, True)):
        plan = make_plan({1: 1, 2: 1}, price_s=plain_s / gain, is_cheapest=True)
        state = CycleState(Asked(plan))
        replan(state, seen, 0.0)
        assert groups(state) == ([{1: 1, 2: 1}] if begins else [])
        for stream_id in state.plain:
            assert state.why_plain(stream_id).startswith("draft off: ")
        assert len(state.plain) == (0 if begins else 2)


def test_a_stream_that_a_policy_forgot_is_decoded_plainly() -> None:
    state, policy = in_force({1: 4}, is_cheapest=True)
    policy.plan = Plan((Batch((1,), (4,)),), (2,))
    replan(state, observe(1, 2, 3), 0.0)
    assert groups(state) == [{1: 4}]
    assert state.plain == (2, 3)


def test_the_joint_plan_is_kept_by_its_own_prices() -> None:
    state = CycleState(joint_plan)
    replan(state, observe(1, 2), 0.0)
    before = groups(state)
    assert sum(map(len, before)) == 2
    batches = list(state.batches)
    replan(state, observe(1, 2, alpha=0.79), 0.0)
    # The same batches; how many guesses they make may change, for that costs nothing.
    assert [id(batch) for batch in state.batches] == [id(batch) for batch in batches]
    assert [group.keys() for group in groups(state)] == [group.keys() for group in before]
    # Hopeless guesses are given up, once that is sure.
    for second in range(1, 20):
        replan(state, observe(1, 2, alpha=0.0), float(second))
    assert (groups(state), sorted(state.plain)) == ([], [1, 2])


def both_kinds(seen: Observation, gain: float) -> Plan:
    """A plan without guesses, and as the other kind one with guesses: the first costs `gain` times
    as much."""
    guesses = make_plan({1: 4, 2: 4}, price_s=1.0, is_cheapest=True)
    price_s = price_of(seen, guesses)
    guesses = make_plan({1: 4, 2: 4}, price_s=price_s, is_cheapest=True)
    plain = make_plan(price_s=price_s * gain, plain=(1, 2), is_cheapest=True)
    return replace(plain, others=(Option(guesses.kind, price_s, 0.1, lambda: guesses),))


def replan_both(
    state: CycleState, policy: Asked, seen: Observation, gain: float, since_s: float, seconds: float
) -> None:
    """The same two plans every second for so long; since_s: from the last change to the first."""
    state._switched_at = 10.0
    policy.plan = both_kinds(seen, gain)
    now = 10.0 + since_s
    while now <= 10.0 + since_s + seconds:
        replan(state, seen, now)
        now += 1.0


@pytest.mark.parametrize(
    ("since_s", "seconds", "gain", "goes_on"),
    [
        (30.0, 0.0, 0.95, True),
        (30.0, 20.0, 0.95, False),
        (30.0, 20.0, 1.02, True),
        (30.0, 0.0, 0.85, False),
        (0.05, 0.0, 0.9, True),
    ],
)
def test_guesses_that_gain_nothing_are_not_gone_on_with_for_long(
    since_s: float, seconds: float, gain: float, goes_on: bool
) -> None:
    """Not at once, for a plan may err, and to end them and to begin again costs some cycles."""
    state, policy = in_force({1: 4, 2: 4}, is_cheapest=True)
    seen = observe(1, 2)
    replan_both(state, policy, seen, gain, since_s, seconds)
    assert bool(groups(state)) is goes_on


@pytest.mark.parametrize(
    ("since_s", "seconds", "gain", "begins"),
    [
        (1000.0, 0.0, 1.05, False),
        (1000.0, 0.0, 1.07, True),
        (1000.0, 20.0, 1.02, True),
        (1000.0, 20.0, 1.005, False),
        (0.05, 0.0, 1.1, False),
        (0.05, 20.0, 1.1, True),
    ],
)
def test_guesses_are_begun_for_the_less_the_longer_they_have_promised_it(
    since_s: float, seconds: float, gain: float, begins: bool
) -> None:
    seen, policy = observe(1, 2), Asked(make_plan(price_s=1.0, plain=(1, 2), is_cheapest=True))
    state = CycleState(policy)
    replan(state, seen, 10.0)
    replan_both(state, policy, seen, gain, since_s, seconds)
    assert bool(groups(state)) is begins


def test_an_even_cycle_starts_a_batch_every_mth_part_of_it() -> None:
    state, policy = in_force({1: 4}, {2: 4}, {3: 4}, {4: 4}, is_cheapest=True)
    assert state.phase_s == pytest.approx(0.1 / 4)
    policy.plan = replace(policy.plan, batches=(), plain=(1,), prediction=None)
    replan(state, observe(1), 0.0)
    assert state.phase_s == 0.0


@pytest.mark.parametrize(("since_s", "regroups"), [(10.0, True), (0.05, False)])
def test_batches_that_were_just_regrouped_are_not_for_a_few_percent(
    since_s: float, regroups: bool
) -> None:
    """Falling into step costs half a cycle, which is much of the time until the next change."""
    state, policy = in_force({1: 4, 2: 4, 3: 4}, is_cheapest=True)
    two = make_plan({1: 4, 2: 4}, {3: 4}, price_s=1e-9, is_cheapest=True)
    seen, policy.plan = observe(1, 2, 3), two
    replan(state, seen, 40.0)
    assert len(groups(state)) == 2
    kept = make_plan({1: 4, 2: 4}, {3: 4}, price_s=1.0, is_cheapest=True)
    price_s = price_of(seen, kept) / 1.06
    policy.plan = make_plan({1: 4, 2: 4, 3: 4}, price_s=price_s, is_cheapest=True)
    replan(state, seen, 40.0 + since_s)
    assert len(groups(state)) == (1 if regroups else 2)


@pytest.mark.parametrize(("num_opening", "overruns"), [(0, True), (1, False), (3, False)])
def test_where_many_prompts_are_read_guesses_are_not_to_blame(
    num_opening: int, overruns: bool
) -> None:
    state, _ = in_force({1: 4, 2: 4}, {3: 4, 4: 4}, is_cheapest=True)
    for step in range(200):
        # A tenth of what is promised.
        state.yielded(1 if step % 100 == 0 else 0, 0.1 * step, num_opening=num_opening)
    assert (state.slowness.two > 1.2) is overruns


@pytest.mark.parametrize(
    ("bound", "expected_s"),
    # Of the target's cycle both passes are a part, of another one the longer of them.
    [("target", 0.1 - 0.25 * 0.07 + 0.018), ("lap of batch 1", 0.1 - 0.25 * 0.04 + 0.010)],
)
def test_a_lap_has_the_prompts_that_there_are_instead_of_those_of_the_plan(
    bound: str, expected_s: float
) -> None:
    plan = make_plan({1: 2}, {2: 2}, price_s=1.0, is_cheapest=False)
    times = BatchTimes(0.02, 0.0, 0.03, 0.1, 8), BatchTimes(0.02, 0.0, 0.04, 0.1, 10)
    assert plan.prediction is not None
    made = replace(plan.prediction, bound=bound, batches=times)
    state = CycleState(Asked(replace(plan, prediction=made)))
    replan(state, replace(observe(1, 2), prefill_share=0.25), 0.0)
    # A millisecond for each of the other tokens of a pass.
    assert state.lap_s(lambda num_tokens: num_tokens / 1000) == pytest.approx(expected_s)
