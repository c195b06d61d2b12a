"""The exact plan for a given order of streams and set of options: the planner's reference.

A label holds the sums over a chain of batches: seconds of every draft node, of every medium and of
the target, the longest round, sum w/E, weight of plain streams, number of batches. The price never
falls when one of them grows. So a label is dropped if another one with as many batches is at least
as good in all of them. The number of plain streams is fixed beforehand, because each pass carries
them all, and every number is tried. This is slow and serves tests and offline measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.acceptance import Floats
from policies.cycle import (
    CyclePlan,
    Stages,
    Totals,
    block_sums,
    price_of_totals,
    stages_of,
    verify_times,
)
from policies.joint import best_plan
from policies.problem import CycleProblem, Ints
from policies.search import Found, options_of


@dataclass(slots=True)
class _Runs:
    """Every run of consecutive streams under every option, as flat arrays: (r, ...)."""

    starts: Ints
    stops: Ints
    options: Ints
    stages: Stages
    plain_weight: Floats
    num_plain: Ints


def exact_plan(problem: CycleProblem, options: Ints | None = None) -> Found:
    """Return the cheapest plan of consecutive batches, each with one of the options.

    options: (o, n) gammas. Default: those of the live planner.
    """
    if options is None:
        options = options_of(problem)
    options = np.unique(options, axis=0)
    runs = _runs_of(problem, options)
    # With a good plan from the start, the lower bound of most labels is above its price.
    best = best_plan(problem)
    allowed = {tuple(row) for row in options.tolist()}
    if not _uses_only(best.plan, allowed):
        best = Found(np.inf, best.plan)
    # Streams whose gamma is 0 in every option are plain in every plan.
    least = int((options == 0).all(axis=0).sum())
    for num_plain in range(least, problem.num_streams + 1):
        best = _best_with(problem, options, runs, num_plain, best)
    return best


def _uses_only(plan: CyclePlan, allowed: set[tuple[int, ...]]) -> bool:
    for first, end in zip(plan.bounds, plan.bounds[1:], strict=False):
        piece = tuple(plan.gammas[first:end].tolist())
        if not any(option[first:end] == piece for option in allowed):
            return False
    return True


def _runs_of(problem: CycleProblem, options: Ints) -> _Runs:
    n = problem.num_streams
    sums = block_sums(problem, options, range(n + 1))
    starts, stops = np.triu_indices(n + 1, 1)
    counts = sums.counts[:, :, stops] - sums.counts[:, :, starts]
    guesses = sums.guesses[:, stops] - sums.guesses[:, starts]
    worth = sums.worth[stops] - sums.worth[starts]
    flat = (len(starts) * len(options),)
    stages = stages_of(
        problem,
        counts.reshape(*counts.shape[:2], *flat),
        guesses.reshape(-1, *flat),
        worth.reshape(flat),
    )
    return _Runs(
        np.repeat(starts, len(options)),
        np.repeat(stops, len(options)),
        np.tile(np.arange(len(options)), len(starts)),
        stages,
        (sums.plain_weight[stops] - sums.plain_weight[starts]).reshape(flat),
        (sums.num_plain[stops] - sums.num_plain[starts]).reshape(flat),
    )


@dataclass(slots=True)
class _Labels:
    """Chains that end at one position: sums (l, columns), longest round (l,), last run, parent.

    Columns: draft nodes, media, then verify, w/E, weight of plain streams, batches, plain count.
    """

    sums: Floats
    round_s: Floats
    runs: Ints
    parents: Ints


def _best_with(
    problem: CycleProblem, options: Ints, runs: _Runs, num_plain: int, best: Found
) -> Found:
    """Return the best of `best` and all chains in which exactly num_plain streams are plain."""
    n = problem.num_streams
    verify_s, round_s = verify_times(problem, runs.stages, np.array(num_plain))
    added = np.column_stack(
        [
            runs.stages.draft_s.T,
            runs.stages.air_s.T,
            verify_s,
            runs.stages.worth,
            runs.plain_weight,
            (runs.stages.num_streams > 0).astype(np.float64),
            runs.num_plain,
        ]
    )
    width = len(problem.node_names) + len(problem.medium_names)
    nothing = np.zeros(1, dtype=np.int64)
    labels = [_Labels(np.zeros((1, added.shape[1])), np.zeros(1), nothing, nothing)]
    for stop in range(1, n + 1):
        parts = []
        for run in np.flatnonzero((runs.stops == stop) & (runs.num_plain <= num_plain)):
            old = labels[runs.starts[run]]
            size = len(old.round_s)
            parts.append(
                _Labels(
                    old.sums + added[run],
                    np.maximum(old.round_s, round_s[run]),
                    np.full(size, run),
                    np.arange(size),
                )
            )
        here = _joined(parts)
        missing = num_plain - here.sums[:, -1]
        here = _only(here, (missing >= 0) & (missing <= n - stop))
        here = _only(here, _bound(problem, here, num_plain, stop, width) < best.price_s)
        labels.append(_only(here, _undominated(here)))
    last = labels[n]
    if len(last.round_s) == 0:
        return best
    price_s, _ = price_of_totals(_totals(problem, last, num_plain, width))
    winner = int(np.argmin(price_s))
    if price_s[winner] >= best.price_s:
        return best
    return Found(float(price_s[winner]), _trace(options, runs, labels, winner))


def _joined(parts: list[_Labels]) -> _Labels:
    return _Labels(
        np.concatenate([part.sums for part in parts]),
        np.concatenate([part.round_s for part in parts]),
        np.concatenate([part.runs for part in parts]),
        np.concatenate([part.parents for part in parts]),
    )


def _only(labels: _Labels, keep: Ints | npt.NDArray[np.bool_]) -> _Labels:
    return _Labels(labels.sums[keep], labels.round_s[keep], labels.runs[keep], labels.parents[keep])


def _totals(problem: CycleProblem, labels: _Labels, num_plain: int, width: int) -> Totals:
    sums = labels.sums
    num_nodes = len(problem.node_names)
    air_s = problem.busiest_air_s(sums[:, num_nodes:width].T, num_plain)
    return Totals(
        busy_s=np.maximum(sums[:, :num_nodes].max(axis=1), air_s),
        air_s=air_s,
        verify_s=sums[:, width],
        round_s=labels.round_s,
        num_batches=sums[:, width + 3],
        worth=sums[:, width + 1],
        plain_weight=sums[:, width + 2],
        plain_pass_s=problem.plain_pass_s(np.full(len(sums), num_plain)),
    )


def _bound(problem: CycleProblem, labels: _Labels, num_plain: int, stop: int, width: int) -> Floats:
    """Lower bound on the price of a finished chain: a plain token takes a plain pass or longer."""
    totals = _totals(problem, labels, num_plain, width)
    # Waits between batches are left out, because more batches may have shorter waits.
    cycle_s = np.maximum(np.maximum(totals.busy_s, totals.verify_s), totals.round_s)
    pass_s = problem.target_s[num_plain]
    n = problem.num_streams
    weights = problem.weights[stop:]
    share = weights / problem.earned[np.arange(stop, n), problem.most[stop:]]
    rest = cycle_s[:, None] * share
    if num_plain:
        rest = np.minimum(rest, weights * pass_s)
    bound: Floats = cycle_s * totals.worth + totals.plain_weight * pass_s + rest.sum(axis=1)
    # Rounding must not drop a label that ends exactly at the best price.
    return bound * (1.0 - 1e-12)


def _undominated(labels: _Labels) -> Ints:
    """Indices of labels that no other one with as many batches and plain streams dominates."""
    values = np.column_stack([labels.sums[:, :-2], labels.round_s])
    kept: list[int] = []
    for alike in np.unique(labels.sums[:, -2:], axis=0):
        mine = np.flatnonzero((labels.sums[:, -2:] == alike).all(axis=1))
        # In this order a label can only be dominated by an earlier one.
        mine = mine[np.lexsort([*values[mine].T[::-1], values[mine].sum(axis=1)])]
        front: Floats = np.empty((len(mine), values.shape[1]))
        size = 0
        for index in mine:
            if size and bool((front[:size] <= values[index]).all(axis=1).any()):
                continue
            front[size] = values[index]
            size += 1
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def _trace(options: Ints, runs: _Runs, labels: list[_Labels], winner: int) -> CyclePlan:
    n = options.shape[1]
    gammas = np.zeros(n, dtype=np.int64)
    bounds = [n]
    index = winner
    while bounds[-1] > 0:
        stop = bounds[-1]
        run = int(labels[stop].runs[index])
        start = int(runs.starts[run])
        gammas[start:stop] = options[runs.options[run], start:stop]
        index = int(labels[stop].parents[index])
        bounds.append(start)
    return CyclePlan(tuple(bounds[::-1]), gammas)
