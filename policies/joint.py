"""The joint planner: it chooses batches and speculation lengths together, for the given air.

A dynamic program cuts the streams into unequal batches, each with an option of its own. The cycle
C, the number P of plain streams, and the time X that guesses take of the target beyond plain passes
are held fixed. Then the price F of a plan is, to first order, a sum over its batches:

    C w/E + s (v(T + P) - v(P)) for those that guess,   s = W_p v(P) C / (C - X)^2,
    w v(P) C / (C - X) + W_p (v(P + 1) - v(P)) C / (C - X)      for plain streams,

where W_p is the weight of plain streams, and each plain stream makes the passes of all others
longer. Seconds of draft nodes and media have a price where they bound the cycle, and no round may
be longer than C. A grid of such points around the best candidate is solved at once, and the plans
found are priced exactly.
"""

from __future__ import annotations

import numpy as np

from airdraft.policies.acceptance import Floats
from airdraft.policies.cycle import CyclePlan, block_sums, price_of_totals, totals_of, verify_times
from airdraft.policies.describe import policy_of
from airdraft.policies.problem import CycleProblem, Ints
from airdraft.policies.search import (
    Found,
    Runs,
    Seed,
    best_equal,
    block_bounds,
    options_of,
    runs_of,
)

# Multiples of the seed's cycle in the grid.
_CYCLES = (1.0, 2.0)


def best_plan(problem: CycleProblem) -> Found:
    """Returns the cheapest plan found. Plain decoding of all streams is a candidate, if clients'
    own gammas allow it."""
    options = options_of(problem)
    bounds = block_bounds(problem)
    runs = runs_of(problem, block_sums(problem, options, bounds))
    found, seed = best_equal(problem, options, bounds, runs)
    if len(options) == 1 or problem.num_streams == 1:
        return found
    # The dynamic program cuts unequally around the seed.
    cost = _costs(problem, runs, seed)
    chains = _chains(cost.min(axis=2), runs, len(bounds) - 1)
    mixed = _priced(problem, options, bounds, runs, chains, cost.argmin(axis=2))
    return min(found, mixed, key=lambda plan: plan.price_s)


def _costs(problem: CycleProblem, runs: Runs, seed: Seed) -> Floats:
    """(g, r, o) first-order cost of every run; infinite if its round is longer than the cycle.

    The grid combines the seed's number of plain streams and three others, cycles around the seed's,
    and for a second of the stages either no price or the whole sum of w/E.
    """
    stages, n = runs.stages, problem.num_streams
    num_plain = np.array([seed.num_plain, n // 4, n // 2, (3 * n) // 4])
    verify_s, round_s = verify_times(problem, stages, num_plain[:, None, None])
    cycle_s = (seed.cycle_s * np.array(_CYCLES))[:, None, None]
    free = 1.0 - seed.stolen
    pass_s = problem.plain_pass_s(np.maximum(1, num_plain))
    weight = problem.weights.sum() / n * num_plain
    # The cost of a second that guesses take from plain passes.
    slope = (weight * pass_s)[:, None, None, None] / (cycle_s * free**2)
    extra_s = verify_s - problem.target_s[num_plain][:, None, None] * (verify_s > 0)
    plain = runs.plain_weight * (pass_s / free)[:, None, None]
    # One more plain stream makes the passes of all others longer.
    longer_s = problem.target_s[num_plain + 1] - problem.target_s[num_plain]
    each_s = problem.weights.sum() / n * np.maximum(1, num_plain) * longer_s / free
    plain += runs.num_plain * each_s[:, None, None]
    unpriced = cycle_s * stages.weight_per_token + slope * extra_s[:, None] + plain[:, None]
    unpriced += np.where(round_s[:, None] > cycle_s, np.inf, 0.0)
    priced = unpriced + seed.weight_per_token * (extra_s + stages.busiest_s())[:, None]
    return np.concatenate([unpriced, priced]).reshape(-1, *stages.weight_per_token.shape)


def _chains(cheapest: Floats, runs: Runs, num_blocks: int) -> Ints:
    """(g, steps) runs of the cheapest chain of each grid point, the last run first.

    Rows of shorter chains end with -1; a grid point without a chain has only -1.
    """
    num_grid = len(cheapest)
    number = np.zeros((num_blocks + 1, num_blocks + 1), dtype=np.int64)
    number[runs.starts, runs.stops] = np.arange(len(runs.starts))
    cost = np.full((num_grid, num_blocks + 1, num_blocks + 1), np.inf)
    cost[:, runs.stops, runs.starts] = cheapest
    best = np.full((num_grid, num_blocks + 1), np.inf)
    best[:, 0] = 0.0
    begin = np.zeros((num_grid, num_blocks + 1), dtype=np.int64)
    row = np.arange(num_grid)
    for stop in range(1, num_blocks + 1):
        total = best[:, :stop] + cost[:, stop, :stop]
        pick = total.argmin(axis=1)
        begin[:, stop] = pick
        best[:, stop] = total[row, pick]
    position = np.where(np.isfinite(best[:, -1]), num_blocks, 0)
    steps = []
    while position.any():
        start = begin[row, position]
        steps.append(np.where(position > 0, number[start, position], -1))
        position = start
    return np.stack(steps, axis=1) if steps else np.full((num_grid, 1), -1)


def _priced(
    problem: CycleProblem, options: Ints, bounds: Ints, runs: Runs, chains: Ints, option: Ints
) -> Found:
    """Prices the plans of all chains exactly, and returns the cheapest one."""
    real = chains >= 0
    run = np.maximum(chains, 0)
    at = (run, option[np.arange(len(chains))[:, None], run])
    num_plain = (runs.num_plain[at] * real).sum(axis=1)
    some = (runs.stages.num_streams[at] > 0) & real
    chosen = runs.stages.at(*at, only=some.astype(np.int64))
    times = verify_times(problem, chosen, num_plain[:, None])
    plain_weight = (runs.plain_weight[at] * real).sum(axis=1)
    totals = totals_of(problem, chosen, times, num_plain, plain_weight)
    price_s = np.where(real[:, 0], price_of_totals(totals)[0], np.inf)
    row = int(price_s.argmin())
    gammas = np.zeros(problem.num_streams, dtype=np.int64)
    cut = [len(bounds) - 1]
    for index, choice in zip(chains[row], at[1][row], strict=True):
        if index >= 0:
            start, stop = int(runs.starts[index]), int(runs.stops[index])
            gammas[bounds[start] : bounds[stop]] = options[choice, bounds[start] : bounds[stop]]
            cut.append(start)
    return Found(float(price_s[row]), CyclePlan(tuple(bounds[cut[::-1]].tolist()), gammas))


def joint_cycle(problem: CycleProblem) -> CyclePlan:
    """Chooses batches and speculation lengths together.

    All streams, except those whose client fixed a number of guesses, are decoded plainly unless
    guesses are predicted to be better.
    """
    return best_plan(problem).plan


joint_plan = policy_of("joint", joint_cycle)
