"""Explains a plan by the plans of other policies and the prices of small changes."""

from __future__ import annotations

import bisect
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from policies.baselines import POLICIES
from policies.explain.changes import Change, changes_of
from policies.explain.reasons import PlainGroup, plain_groups
from policies.explain.timeline import Timeline, timeline_of
from policies.plan import Batch, BatchTimes, Observation, Plan, Policy, Prediction, StreamView
from policies.problem import CycleProblem, problem_of

# Acceptances that are tried for the one at which the decision turns.
_NUM_STEPS = 256
_SAME_PRICE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedBatch(BatchTimes):
    """A batch with its predicted times; gammas in the order of its streams.

    expected_tokens: tokens that it commits in a round.
    """

    streams: tuple[int, ...]
    gammas: tuple[int, ...]
    expected_tokens: float


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of a policy's plan, as in Prediction.

    mean_token_s: its price as seconds a token, in the mean over streams by weight. relative: by
    what share its price is higher than the plan's, 0.1 for 10 %. same_plan: it is the plan.
    """

    name: str
    price_s: float
    mean_token_s: float
    tokens_per_s: float
    relative: float
    same_plan: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A plan with its reasons, which `airdraft plan --json` prints. Batches have numbers from 1.

    price_s, mean_token_s, tokens_per_s: as in Compared. cycle_s, bound: as in Prediction.
    plain_pass_s: seconds of a pass of the plain streams. best_rejected: name of the cheapest policy
    with another plan. acceptance: mean over streams that may guess; None if none may.
    turning_acceptance: the mean acceptance at which the policy would begin or cease to guess; None
    if there is none.
    """

    policy: str
    price_s: float
    mean_token_s: float
    tokens_per_s: float
    cycle_s: float
    bound: str
    batches: tuple[ExplainedBatch, ...]
    plain: tuple[PlainGroup, ...]
    plain_pass_s: float
    policies: tuple[Compared, ...]
    best_rejected: str | None
    changes: tuple[Change, ...]
    acceptance: float | None
    turning_acceptance: float | None
    timeline: Timeline


def explain(observation: Observation, policy: str) -> Explanation:
    """Explain the plan of a policy (a name in POLICIES) for at least one stream and a target."""
    plans = {name: make(observation) for name, make in POLICIES.items()}
    plan, problem = plans[policy], problem_of(observation)
    prediction = _prediction(plan)
    weight = sum(view.weight for view in observation.streams)
    policies = {name: _compared(name, other, plan, weight) for name, other in plans.items()}
    chosen = policies[policy]
    others = [item for item in policies.values() if not item.same_plan]
    rejected = min(others, key=lambda item: item.price_s, default=None)
    free = _free(observation)
    return Explanation(
        policy=policy,
        price_s=chosen.price_s,
        mean_token_s=chosen.mean_token_s,
        tokens_per_s=chosen.tokens_per_s,
        cycle_s=prediction.cycle_s,
        bound=prediction.bound,
        batches=tuple(
            _explained(problem, batch, times)
            for batch, times in zip(plan.batches, prediction.batches, strict=True)
        ),
        plain=plain_groups(observation, problem, plan),
        plain_pass_s=float(problem.plain_pass_s(len(plan.plain))),
        policies=tuple(policies.values()),
        best_rejected=rejected.name if rejected else None,
        changes=tuple(changes_of(problem, plan)),
        acceptance=fmean(view.alpha for view in free) if free else None,
        turning_acceptance=_turning_acceptance(observation, POLICIES[policy], plan),
        timeline=timeline_of(problem, plan),
    )


def _prediction(plan: Plan) -> Prediction:
    assert plan.prediction is not None
    return plan.prediction


def _compared(name: str, other: Plan, chosen: Plan, weight: float) -> Compared:
    made, relative = _prediction(other), _prediction(other).price_s / _prediction(chosen).price_s
    is_same = abs(relative - 1.0) <= _SAME_PRICE and _as_sets(other) == _as_sets(chosen)
    mean_token_s = made.price_s / weight
    return Compared(name, made.price_s, mean_token_s, made.tokens_per_s, relative - 1.0, is_same)


def _as_sets(plan: Plan) -> set[frozenset[tuple[int, int]]]:
    batches = {frozenset(zip(b.stream_ids, b.gammas, strict=True)) for b in plan.batches}
    return {*batches, frozenset((stream_id, 0) for stream_id in plan.plain)}


def _explained(problem: CycleProblem, batch: Batch, times: BatchTimes) -> ExplainedBatch:
    rows = [problem.stream_ids.index(stream_id) for stream_id in batch.stream_ids]
    return ExplainedBatch(
        **asdict(times),
        streams=batch.stream_ids,
        gammas=batch.gammas,
        expected_tokens=float(problem.earned[rows, batch.gammas].sum()),
    )


def _free(observation: Observation) -> list[StreamView]:
    """Returns the streams that may have guesses and whose number of guesses is not fixed."""
    return [
        view
        for view in observation.streams
        if view.draft is not None and view.fixed_gamma is None and view.tokens_left > 1
    ]


def _turning_acceptance(observation: Observation, policy: Policy, plan: Plan) -> float | None:
    """Returns the mean acceptance at which the policy begins or ceases to guess.

    The acceptance of all streams moves in proportion towards 1, or towards 0 if the plan guesses.
    """
    free = {view.stream_id for view in _free(observation)}

    def guesses(plan: Plan) -> bool:
        return any(s in free for batch in plan.batches for s in batch.stream_ids)

    now = guesses(plan)
    goal = 0.0 if now else 1.0

    def turns(step: int) -> bool:
        return guesses(policy(_moved(observation, goal, step / _NUM_STEPS))) != now

    if not free or not turns(_NUM_STEPS):
        return None
    step = bisect.bisect_left(range(_NUM_STEPS), True, lo=1, key=turns)
    return fmean(view.alpha for view in _free(_moved(observation, goal, step / _NUM_STEPS)))


def _moved(observation: Observation, goal: float, share: float) -> Observation:
    def move(alpha: float) -> float:
        return alpha + share * (goal - alpha)

    moved = (
        replace(view, alpha=move(view.alpha), alphas=tuple(move(a) for a in view.alphas))
        for view in observation.streams
    )
    return replace(observation, streams=tuple(moved))
