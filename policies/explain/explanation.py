"""Explains a plan by the plans of other policies and the prices of small changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from policies.baselines import POLICIES
from policies.explain.changes import Change, changes_of
from policies.explain.timeline import Timeline, timeline_of
from policies.plan import Batch, Observation, Plan, Policy, Prediction, StreamView
from policies.problem import CycleProblem, problem_of

_NUM_BISECTIONS = 8
_SAME_PRICE = 1e-9


@dataclass(frozen=True, slots=True)
class Compared:
    """The prediction of a policy's plan. is_same: it is the chosen plan."""

    name: str
    prediction: Prediction
    is_same: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan with its reasons.

    expected_tokens: tokens that each batch commits in a round. plain_pass_s: seconds of a pass of
    the plain streams. best_rejected: the cheapest policy with another plan. acceptance: mean over
    streams that may guess; None if none may. turning_acceptance: the mean acceptance at which the
    policy would begin or cease to guess; None if there is none.
    """

    observation: Observation
    plan: Plan
    prediction: Prediction
    expected_tokens: tuple[float, ...]
    plain_pass_s: float
    compared: tuple[Compared, ...]
    best_rejected: Compared | None
    changes: tuple[Change, ...]
    acceptance: float | None
    turning_acceptance: float | None
    timeline: Timeline

    def relative(self, price_s: float) -> float:
        """Returns by what share a price is higher than the plan's: 0.1 for 10 %."""
        return price_s / self.prediction.price_s - 1.0

    def mean_token_s(self, price_s: float) -> float:
        """Returns a price as seconds a token, in the mean over streams by weight."""
        return price_s / sum(view.weight for view in self.observation.streams)

    def plain_groups(self) -> list[tuple[str, tuple[int, ...]]]:
        """Returns the reasons for plain decoding, each with its streams."""
        groups: dict[str, list[int]] = {}
        for stream_id in self.plan.plain:
            groups.setdefault(self.plan.reasons.get(stream_id, ""), []).append(stream_id)
        found = [(reason, tuple(sorted(ids))) for reason, ids in groups.items()]
        return sorted(found, key=lambda group: group[1])


def explain(observation: Observation, policy: str) -> Explanation:
    """Explain the plan of a policy (a name in POLICIES) for at least one stream and a target."""
    plans = {name: make(observation) for name, make in POLICIES.items()}
    plan, problem = plans[policy], problem_of(observation)
    compared = tuple(_compared(name, other, plan) for name, other in plans.items())
    others = [item for item in compared if not item.is_same]
    free = _free(observation)
    return Explanation(
        observation,
        plan,
        _prediction(plan),
        tuple(_expected_tokens(problem, batch) for batch in plan.batches),
        float(problem.plain_pass_s(len(plan.plain))),
        compared,
        min(others, key=lambda item: item.prediction.price_s, default=None),
        tuple(changes_of(observation, problem, plan)),
        _mean(view.alpha for view in free) if free else None,
        _turning_acceptance(observation, POLICIES[policy], plan),
        timeline_of(problem, plan),
    )


def ranges(numbers: Iterable[int]) -> str:
    """Returns numbers as text, such as 1-4,7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def as_object(explanation: Explanation) -> dict[str, Any]:
    """Returns the explanation as an object for JSON. Batches are numbered from 1.

    policy, price_s, mean_token_s, tokens_per_s, cycle_s, bound: the prediction (Prediction).
    batches: for each batch its streams, gammas (in the same order), draft_s, air_s, verify_s,
    round_s, num_tokens (of its pass), and expected_tokens (committed in a round). plain: for each
    group its reason and streams. plain_pass_s: seconds of a pass of the plain streams. policies:
    for each its name, price_s, mean_token_s, tokens_per_s, relative (to the plan's price; 0.1 is
    10 % more), and same_plan. best_rejected: the name of a policy, or null. changes: for each its
    batch (0 for all), what, price_s, and relative. acceptance, turning_acceptance: numbers or null
    (Explanation). timeline: end_s, cycle_s or null (Timeline), and lanes, each with kind (draft,
    air or target), name, and spans, each with batch (0 for plain streams only), start_s, end_s, and
    num_passes.
    """
    plan, prediction = explanation.plan, explanation.prediction
    rejected = explanation.best_rejected
    return {
        "policy": plan.policy,
        **_figures(explanation, prediction),
        "cycle_s": prediction.cycle_s,
        "bound": prediction.bound,
        "batches": _batch_objects(explanation),
        "plain": [
            {"reason": reason, "streams": list(ids)} for reason, ids in explanation.plain_groups()
        ],
        "plain_pass_s": explanation.plain_pass_s,
        "policies": [
            {
                "name": item.name,
                **_figures(explanation, item.prediction),
                "relative": explanation.relative(item.prediction.price_s),
                "same_plan": item.is_same,
            }
            for item in explanation.compared
        ],
        "best_rejected": rejected.name if rejected else None,
        "changes": [
            {**asdict(change), "relative": explanation.relative(change.price_s)}
            for change in explanation.changes
        ],
        "acceptance": explanation.acceptance,
        "turning_acceptance": explanation.turning_acceptance,
        "timeline": asdict(explanation.timeline),
    }


def _figures(explanation: Explanation, prediction: Prediction) -> dict[str, Any]:
    return {
        "price_s": prediction.price_s,
        "mean_token_s": explanation.mean_token_s(prediction.price_s),
        "tokens_per_s": prediction.tokens_per_s,
    }


def _batch_objects(explanation: Explanation) -> list[dict[str, Any]]:
    plan = explanation.plan
    rows = zip(
        plan.batches, explanation.prediction.batches, explanation.expected_tokens, strict=True
    )
    return [
        {
            "streams": list(batch.stream_ids),
            "gammas": list(batch.gammas),
            **asdict(times),
            "expected_tokens": expected,
        }
        for batch, times, expected in rows
    ]


def _compared(name: str, other: Plan, chosen: Plan) -> Compared:
    prediction, price_s = _prediction(other), _prediction(chosen).price_s
    has_its_price = abs(prediction.price_s - price_s) <= _SAME_PRICE * price_s
    return Compared(name, prediction, has_its_price and _as_sets(other) == _as_sets(chosen))


def _prediction(plan: Plan) -> Prediction:
    assert plan.prediction is not None
    return plan.prediction


def _as_sets(plan: Plan) -> set[frozenset[tuple[int, int]]]:
    batches = {frozenset(zip(b.stream_ids, b.gammas, strict=True)) for b in plan.batches}
    return {*batches, frozenset((stream_id, 0) for stream_id in plan.plain)}


def _expected_tokens(problem: CycleProblem, batch: Batch) -> float:
    at = {stream_id: k for k, stream_id in enumerate(problem.stream_ids)}
    pairs = zip(batch.stream_ids, batch.gammas, strict=True)
    return float(sum(problem.earned[at[stream_id], gamma] for stream_id, gamma in pairs))


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
    if not free or guesses(policy(_moved(observation, goal, 1.0))) == now:
        return None
    kept, turned = 0.0, 1.0
    for _ in range(_NUM_BISECTIONS):
        middle = (kept + turned) / 2
        if guesses(policy(_moved(observation, goal, middle))) == now:
            kept = middle
        else:
            turned = middle
    return _mean(view.alpha for view in _free(_moved(observation, goal, turned)))


def _moved(observation: Observation, goal: float, share: float) -> Observation:
    def move(alpha: float) -> float:
        return alpha + share * (goal - alpha)

    moved = (
        replace(view, alpha=move(view.alpha), alphas=tuple(move(a) for a in view.alphas))
        for view in observation.streams
    )
    return replace(observation, streams=tuple(moved))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
