"""The cheapest plan of a few streams, by pricing all: the reference of the planner's search."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np

from policies.cycle import Totals, block_sums, price_of_totals, stages_of, verify_times
from policies.problem import CycleProblem, Ints
from policies.search import options_of


def least_price_s(problem: CycleProblem, options: Ints | None = None) -> float:
    """Return the least price of all consecutive cuts, with any option for each batch.

    options: (o, n) gammas. Default: those of the planner. Takes a second for five streams.
    """
    options = options_of(problem) if options is None else options
    n = problem.num_streams
    return min(
        _least_of_cut(problem, options, (0, *(k + 1 for k in range(n - 1) if cuts[k]), n))
        for cuts in product((False, True), repeat=n - 1)
    )


def _least_of_cut(problem: CycleProblem, options: Ints, bounds: tuple[int, ...]) -> float:
    sums = block_sums(problem, options, range(problem.num_streams + 1))
    # Options that are alike in a batch are one choice.
    choices = [
        np.unique(options[:, first:end], axis=0, return_index=True)[1]
        for first, end in pairwise(bounds)
    ]
    chosen = np.array(list(product(*choices))).T
    first, end = (np.array(places)[:, None] for places in (bounds[:-1], bounds[1:]))
    stages = stages_of(
        problem,
        sums.counts[:, :, end, chosen] - sums.counts[:, :, first, chosen],
        sums.guesses[:, end, chosen] - sums.guesses[:, first, chosen],
        sums.worth[end, chosen] - sums.worth[first, chosen],
    )
    num_plain = (sums.num_plain[end, chosen] - sums.num_plain[first, chosen]).sum(axis=0)
    plain_weight = sums.plain_weight[end, chosen] - sums.plain_weight[first, chosen]
    verify_s, round_s = verify_times(problem, stages, num_plain)
    air_s = problem.busiest_air_s(stages.air_s.sum(axis=1), num_plain)
    price_s, _ = price_of_totals(
        Totals(
            busy_s=np.maximum(stages.draft_s.sum(axis=1).max(axis=0), air_s),
            air_s=air_s,
            verify_s=verify_s.sum(axis=0),
            round_s=round_s.max(axis=0),
            num_batches=(stages.num_streams > 0).sum(axis=0).astype(np.float64),
            worth=stages.worth.sum(axis=0),
            plain_weight=plain_weight.sum(axis=0),
            plain_pass_s=problem.plain_pass_s(num_plain),
        )
    )
    return float(price_s.min())
