"""Dynamic programs of the one-shot problem: labels are clocks and cost, the best ones are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bench.paper.oneshot import (
    OneShot,
    OneShotPlan,
    advance,
    evaluate,
    joined,
    option_gammas,
    stages_of,
    start_label,
)
from policies.acceptance import Floats

Indices = npt.NDArray[np.intp]


def solve_exact(problem: OneShot) -> OneShotPlan:
    """The best plan for the order and the options, by dominance in all clocks and the cost.

    Every clock and the cost grow with those before, so a dominated label has no better future.
    Labels that cannot become better than the fast plan are dropped before. Meant for tests and
    for about a dozen streams: the number of labels has no good bound.
    """
    # The margin is for rounding only.
    limit = solve_fast(problem).cost * (1.0 + 1e-9)
    pace = _rest_pace(problem)

    def keep(end: int, labels: Floats) -> Indices:
        hopeful = np.flatnonzero(_least_cost(problem, pace[end], labels[2], labels[3]) <= limit)
        return hopeful[undominated(labels[:, hopeful])]

    return _solve(problem, keep)


def solve_fast(problem: OneShot, num_labels: int = 8) -> OneShotPlan:
    """A plan from at most num_labels labels a position, the most promising ones.

    Three quarters by target clock and cost. The rest by the medium's clock and cost: where draft
    or air hold everything up, the target's clock alone misleads.
    """
    if num_labels < 1:
        raise ValueError("at least one label has to be kept")
    pace = _rest_pace(problem)

    def promising(end: int, clock_s: Floats, cost: Floats, num_kept: int) -> Indices:
        kept = staircase(clock_s, cost)
        promise = _least_cost(problem, pace[end], clock_s[kept], cost[kept])
        return kept[np.argsort(promise, kind="stable")[:num_kept]]

    def keep(end: int, labels: Floats) -> Indices:
        _, air_free_s, target_free_s, cost = labels
        num_by_air = num_labels // 4
        by_target = promising(end, target_free_s, cost, num_labels - num_by_air)
        return np.union1d(by_target, promising(end, air_free_s, cost, num_by_air))

    return _solve(problem, keep)


def undominated(labels: Floats) -> Indices:
    """Labels that no other equals or beats in every coordinate; of equal ones the first.

    labels: (c, m), less is better, finite. Returns ascending indices into m.
    """
    # A label can be dominated only by one before it in this order, so the head always stays.
    order = np.lexsort(labels[::-1])
    rest = labels[:, order]
    kept = []
    while order.size:
        kept.append(order[0])
        survives = (rest < rest[:, :1]).any(axis=0)
        order, rest = order[survives], rest[:, survives]
    return np.sort(np.array(kept, dtype=np.intp))


def staircase(time: Floats, cost: Floats) -> Indices:
    """Labels that are undominated in (time, cost), of equal ones the first.

    time, cost: (m,), less is better. Returns indices in order of time.
    """
    order = np.lexsort((cost, time))
    cheapest = np.minimum.accumulate(cost[order])
    step = np.ones(order.size, dtype=bool)
    step[1:] = cheapest[1:] < cheapest[:-1]
    return order[step]


def _solve(problem: OneShot, keep: Callable[[int, Floats], Indices]) -> OneShotPlan:
    options = option_gammas(problem)
    stages = stages_of(problem, options)
    labels = start_label(problem)
    position, parent, option = np.zeros((3, 1), dtype=np.intp)
    for end in range(1, problem.num_streams + 1):
        grown = advance(problem, stages, labels, position, end)
        flat = grown.reshape(4, -1)
        # After the last stream the clocks matter no more.
        last = end == problem.num_streams
        kept = np.array([flat[3].argmin()]) if last else keep(end, flat)
        option_index, label_index = np.unravel_index(kept, grown.shape[1:])
        labels = np.concatenate([labels, flat[:, kept]], axis=1)
        option = np.concatenate([option, option_index])
        parent = np.concatenate([parent, label_index])
        position = np.concatenate([position, np.full(kept.size, end)])
    cuts, gammas = [], np.empty(problem.num_streams, dtype=np.int64)
    at = position.size - 1
    while position[at] > 0:
        start, end = position[parent[at]], position[at]
        gammas[start:end] = options[option[at], start:end]
        cuts.append(int(end))
        at = parent[at]
    return evaluate(problem, cuts[::-1], gammas.tolist())


def _rest_pace(problem: OneShot) -> Floats:
    """(n + 1,) what a second of delay adds at least to the cost of the streams from each one on."""
    fewest = 1.0 / problem.earned[np.arange(problem.num_streams), problem.max_gamma]
    pace = np.zeros(problem.num_streams + 1)
    if problem.objective == "sum":
        pace[:-1] = np.cumsum((problem.weights * fewest)[::-1])[::-1]
    else:
        pace[:-1] = np.maximum.accumulate(fewest[::-1])[::-1]
    return pace


def _least_cost(problem: OneShot, pace: float, target_free_s: Floats, cost: Floats) -> Floats:
    """What labels come to at least: all the rest waits for one more pass."""
    return joined(problem, cost, pace * (target_free_s + min(problem.target.seconds)))
