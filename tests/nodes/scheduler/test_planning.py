"""Plans that are made while messages go on, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import pytest

from nodes.messages import LeaseRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.advantage import NOTHING_KNOWN, Advantage, Gain
from nodes.scheduler.instructions import Instruction, ToTarget
from nodes.scheduler.planning import Planning
from nodes.stream import StreamId
from policies.plan import Batch, DraftView, Kind, Observation, Option, Plan, Prediction, StreamView
from policies.priced import price_of
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    TWO,
    FixedPolicy,
    PlainPolicy,
    commit_one,
    draft_requests,
    open_stream,
)


def later(policy: FixedPolicy) -> SchedulerState:
    """A scheduler whose plans are begun and taken by the test, with a draft node."""
    scheduler = SchedulerState(policy, TARGET_COSTS, plans_later=lambda: None)
    scheduler.draft_joined("a", DRAFT_COSTS)
    return scheduler


def begun(scheduler: SchedulerState) -> Planning:
    planning = scheduler.begin_plan(0.0)
    assert planning is not None
    return planning


def leased(instructions: Sequence[Instruction]) -> list[int]:
    told = [i.message for i in instructions if isinstance(i, ToTarget)]
    leases = [message for message in told if isinstance(message, LeaseRequest)]
    return [entry.stream_id for lease in leases for entry in lease.entries]


def test_who_comes_while_a_plan_is_made_is_in_the_next_one() -> None:
    scheduler = later(FixedPolicy(gamma=4, size=1))
    open_stream(scheduler, ONE, "a")
    planning = begun(scheduler)
    assert scheduler.begin_plan(0.0) is None, "nothing has changed since"
    open_stream(scheduler, TWO, "a")
    ((_, request),) = draft_requests(scheduler.take_plan(planning, planning.make(), 0.0))
    assert [entry.stream_id for entry in request.entries] == [ONE]
    ((_, request),) = draft_requests(scheduler.plan_anew(0.0))
    assert [entry.stream_id for entry in request.entries] == [TWO]


def test_who_leaves_while_a_plan_is_made_is_not_asked_for() -> None:
    scheduler = later(FixedPolicy(gamma=4))
    for stream_id in (ONE, TWO):
        open_stream(scheduler, stream_id, "a")
    planning = begun(scheduler)
    scheduler.cancel(TWO, 0.0)
    ((_, request),) = draft_requests(scheduler.take_plan(planning, planning.make(), 0.0))
    assert [entry.stream_id for entry in request.entries] == [ONE]
    planning = begun(scheduler)
    scheduler.cancel(ONE, 0.0)
    assert scheduler.take_plan(planning, planning.make(), 0.0) == []


def test_who_loses_its_draft_node_while_a_plan_is_made_is_decoded_plainly() -> None:
    scheduler = later(FixedPolicy(gamma=4))
    open_stream(scheduler, ONE, "a")
    planning = begun(scheduler)
    scheduler.draft_lost("a", 0.0)
    out = scheduler.take_plan(planning, planning.make(), 0.0)
    assert draft_requests(out) == []
    assert leased(out) == [ONE]


def test_what_is_known_as_a_plan_is_begun_is_what_it_is_made_of() -> None:
    policy = FixedPolicy(gamma=4)
    scheduler = later(policy)
    open_stream(scheduler, ONE, "a")
    planning = begun(scheduler)
    policy.seen.clear()
    assert scheduler.begin_plan(0.0) is None
    commit_one(scheduler, ONE)
    open_stream(scheduler, TWO, "a")
    made = planning.make()
    assert policy.seen == [planning.observation]
    assert [view.stream_id for view in made.observation.streams] == [ONE]


VIEWS = tuple(StreamView(k, alpha=0.8, tokens_left=100, draft="a") for k in (1, 2, 3))


@pytest.mark.parametrize("fails", [True, False])
def test_where_the_plan_in_force_cannot_be_compared_the_new_one_is_taken(fails: bool) -> None:
    """The target's costs are none: to price what is kept fails, and nothing else."""
    wanted = Plan((Batch((1, 2, 3), (4, 4, 4)),), prediction=Prediction(1.0, "", 1.0, 1.0))
    target = replace(TARGET_COSTS, decode=None) if fails else TARGET_COSTS  # type: ignore[arg-type]
    seen = Observation(VIEWS, target)
    in_force = Plan((Batch((1, 2, 3), (2, 2, 2)),))
    batches = [{StreamId(k): 2 for k in (1, 2, 3)}]
    plan = Planning(seen, lambda _: wanted, in_force, batches, 1.0, 1.0).make().plan
    assert (plan is wanted) is fails


def test_who_has_to_guess_does_though_the_plan_in_force_has_it_plain() -> None:
    scheduler = later(PlainPolicy())
    open_stream(scheduler, ONE, "a")
    scheduler.plan_anew(0.0)
    forced = replace(VIEWS[0], stream_id=9, fixed_gamma=3)
    wanted = Plan((Batch((9,), (3,)),), (1,), is_cheapest=True)
    in_force = Plan((Batch((1,), (2,)),), (9,))
    planning = Planning(
        Observation((VIEWS[0], forced)), lambda _: wanted, in_force, [{ONE: 2}], 1.0, 1.0
    )
    kept = planning._adapted(wanted, planning.observation, keeps_gammas=True)
    assert dict(zip(kept.batches[0].stream_ids, kept.batches[0].gammas, strict=True)) == {
        1: 2,
        9: 3,
    }


def test_all_streams_are_looked_at_in_turn_however_many_there_are() -> None:
    """Only some after each pass: those that have waited longest."""
    scheduler = SchedulerState(PlainPolicy(), TARGET_COSTS)
    scheduler.draft_joined("a", DRAFT_COSTS)
    ids = [StreamId(number) for number in range(1, 41)]
    for stream_id in ids:
        scheduler.admit(make_spec(stream_id, max_tokens=LONG), None)
    streams = [scheduler._streams[stream_id] for stream_id in ids]
    for _ in range(20):
        for stream in streams:
            stream.token_ids += [9] * 16
        scheduler._draft_side.reconsider(streams)
    # Of 40 streams 4 a pass: each twice in 20.
    assert min(stream.reconsidered_at for stream in streams) >= 16 * 10


def test_a_plan_of_another_kind_is_not_kept_from_by_the_one_in_force() -> None:
    """Which kind it is to be is decided by what kinds gain on average, not by a single plan."""
    seen = Observation(VIEWS, TARGET_COSTS, (DraftView("a", DRAFT_COSTS),))
    three = Plan(tuple(Batch((k,), (2,)) for k in (1, 2, 3)), is_cheapest=True)
    one = Plan((Batch((1, 2, 3), (2, 2, 2)),), is_cheapest=True)
    made = [
        replace(p, prediction=Prediction(0.1, "", price_of(seen, p), 1.0)) for p in (three, one)
    ]
    # By a single plan the one that is in force is better than the other.
    other = Option(Kind.ONE, made[0].price_s, 0.1, lambda: made[1])
    plan = replace(made[0], others=(other,))
    gain = Gain(0.05, 0.0, 20.0)
    batches = [{StreamId(k): 2} for k in (1, 2, 3)]
    planning = Planning(
        seen, lambda _: plan, made[0], batches, 10.0, 10.0,
        advantage=Advantage(Kind.CROWDED, {Kind.ONE: gain}), now=1.0,
    )  # fmt: skip
    found = planning.make()
    assert found.plan.kind is Kind.ONE
    # Whoever has a plan in force does not hold the others.
    assert found.plan.others == ()
    assert found.advantage.gains[Kind.ONE].known_s == 21.0
    none = replace(planning, advantage=NOTHING_KNOWN)
    assert none.make().plan.kind is Kind.CROWDED


@pytest.mark.parametrize(("gain", "kind"), [(0.03, Kind.MIXED), (0.2, Kind.PLAIN)])
def test_where_the_kind_in_force_cannot_be_the_next_best_guesses_are_gone_on_with(
    gain: float, kind: Kind
) -> None:
    """A stream that cannot guess for a moment is no reason to end the guesses of the others for a
    few percent."""
    seen = Observation(VIEWS, TARGET_COSTS, (DraftView("a", DRAFT_COSTS),))
    all_guess = Plan((Batch((1, 2, 3), (2, 2, 2)),), is_cheapest=True)
    some = Plan((Batch((1, 2), (2, 2)),), (3,), is_cheapest=True)
    price_s = price_of(seen, some)
    some = replace(some, prediction=Prediction(0.1, "", price_s, 1.0))
    plain_s = price_s * exp(-gain)
    plain = Plan((), (1, 2, 3), is_cheapest=True, prediction=Prediction(0.1, "", plain_s, 1.0))
    plain = replace(plain, others=(Option(Kind.MIXED, price_s, 0.1, lambda: some),))
    batches = [{StreamId(k): 2 for k in (1, 2, 3)}]
    planning = Planning(seen, lambda _: plain, all_guess, batches, 10.0, 10.0, now=1.0)
    assert planning.make().plan.kind is kind
