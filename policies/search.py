"""The candidates of the live planner, from which the dynamic program of `joint.py` starts.

Streams in order of acceptance are grouped into at most 12 blocks, and batches consist of blocks.
Each batch has one option: a gamma for all, or a threshold on the gain of a guess. A candidate
leaves a first part of the streams plain and cuts the rest into equal batches with one option. The
numbers of blocks and options bound the work, and no clock does, so the same observation gives the
same plan.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from airdraft.policies.acceptance import Floats
from airdraft.policies.cycle import (
    BlockSums,
    CyclePlan,
    Stages,
    Totals,
    price_of_totals,
    stages_of,
    verify_times,
)
from airdraft.policies.plan import MAX_AUTO_GAMMA
from airdraft.policies.problem import CycleProblem, Ints

MAX_BLOCKS = 12


def options_of(problem: CycleProblem) -> Ints:
    """(o, n) options of gammas: uniform ones, then thresholds, within each stream's bounds."""
    uniform = np.arange(MAX_AUTO_GAMMA + 1)[:, None]
    earned = problem.earned
    # A gain is the amount by which the g-th guess lowers w/E. It falls with g, so the number of
    # gains above a threshold is a gamma.
    gains = problem.weights[:, None] * (1.0 / earned[:, :-1] - 1.0 / earned[:, 1:])
    useful = gains[np.arange(problem.max_gamma) < problem.most[:, None]]
    if useful.size == 0:
        return np.broadcast_to(problem.least, (1, problem.num_streams)).astype(np.int64)
    ranked = np.sort(useful)
    picks = (np.arange(1, MAX_AUTO_GAMMA + 1) * len(ranked)) // (MAX_AUTO_GAMMA + 1)
    thresholds = (gains[None] >= ranked[picks][:, None, None]).sum(axis=2)
    options = np.concatenate([np.broadcast_to(uniform, (len(uniform), len(gains))), thresholds])
    clipped: Ints = np.clip(options, problem.least, problem.most)
    return clipped


@dataclass(frozen=True, slots=True)
class Runs:
    """Every run of consecutive blocks as one batch, under every option: arrays (r, o).

    starts, stops: (r,) first block and the block after the last one. stages: of the guessing
    streams. plain_weight, num_plain: weight and number of the streams without guesses.
    """

    starts: Ints
    stops: Ints
    stages: Stages
    plain_weight: Floats
    num_plain: Ints


def runs_of(problem: CycleProblem, sums: BlockSums) -> Runs:
    """Returns the stage times of all runs. sums: sums over blocks."""
    starts, stops = np.triu_indices(len(sums.weight_per_token), 1)
    counts, weight_per_token = sums.counts[:, :, stops], sums.weight_per_token[stops]
    counts -= sums.counts[:, :, starts]
    weight_per_token -= sums.weight_per_token[starts]
    guesses = sums.guesses[:, stops] - sums.guesses[:, starts]
    return Runs(
        starts,
        stops,
        stages_of(problem, counts, guesses, weight_per_token),
        sums.plain_weight[stops] - sums.plain_weight[starts],
        sums.num_plain[stops] - sums.num_plain[starts],
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A plan and its price."""

    price_s: float
    plan: CyclePlan


@dataclass(frozen=True, slots=True)
class Seed:
    """The start of the dynamic program: totals of the best candidate.

    stolen: share of the cycle that guesses take from plain passes. weight_per_token: sum of w/E.
    """

    num_plain: int
    cycle_s: float
    stolen: float
    weight_per_token: float


def block_bounds(problem: CycleProblem) -> Ints:
    """Returns positions that cut streams into at most MAX_BLOCKS blocks of nearly equal size."""
    num_blocks = min(problem.num_streams, MAX_BLOCKS)
    return (np.arange(num_blocks + 1) * problem.num_streams) // num_blocks


@dataclass(frozen=True, slots=True)
class _EqualCuts:
    """c candidates, each with a plain head and then equal batches.

    heads: (c,) run of the head, -1 for none. runs: (q,) runs of the batches of all candidates, one
    candidate after the other. groups: (c,) index in `runs` of each candidate's first batch. owner:
    (q,) candidate of each batch. bounds: block boundaries of each candidate.
    """

    heads: Ints
    runs: Ints
    groups: Ints
    owner: Ints
    bounds: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=64)
def _equal_cuts(num_blocks: int) -> _EqualCuts:
    starts, stops = np.triu_indices(num_blocks + 1, 1)
    number = {(int(i), int(j)): r for r, (i, j) in enumerate(zip(starts, stops, strict=True))}
    heads: list[int] = []
    runs: list[int] = []
    groups: list[int] = []
    owner: list[int] = []
    bounds: list[tuple[int, ...]] = []
    for head in range(num_blocks):
        left = num_blocks - head
        for num in range(1, left + 1):
            cut = [head + (m * left) // num for m in range(num + 1)]
            groups.append(len(runs))
            owner += [len(heads)] * num
            runs += [number[pair] for pair in itertools.pairwise(cut)]
            heads.append(number[0, head] if head else -1)
            bounds.append(tuple([0, *cut] if head else cut))
    return _EqualCuts(
        np.array(heads), np.array(runs), np.array(groups), np.array(owner), tuple(bounds)
    )


def best_equal(
    problem: CycleProblem, options: Ints, bounds: Ints, runs: Runs
) -> tuple[Found, Seed]:
    """Returns the best plan of a plain head and equal batches with one option, and the seed."""
    cuts = _equal_cuts(len(bounds) - 1)
    stages = runs.stages
    has_head = (cuts.heads >= 0)[:, None]
    # A head is decoded with option 0, which has no guesses except gammas fixed by clients.
    head_guesses = np.where(has_head, stages.num_streams[cuts.heads, 0][:, None], 0)
    head_plain = np.where(has_head, runs.num_plain[cuts.heads, 0][:, None], 0)
    num_plain = np.add.reduceat(runs.num_plain[cuts.runs], cuts.groups, axis=0) + head_plain
    plain_weight = np.add.reduceat(runs.plain_weight[cuts.runs], cuts.groups, axis=0)
    plain_weight = plain_weight + np.where(has_head, runs.plain_weight[cuts.heads, 0][:, None], 0.0)
    picked = stages.at(cuts.runs, slice(None))
    verify_s, round_s = verify_times(problem, picked, num_plain[cuts.owner])
    by_medium = np.add.reduceat(picked.air_s, cuts.groups, axis=1)
    air_s = problem.busiest_air_s(by_medium, num_plain)
    totals = Totals(
        busy_s=np.maximum(np.add.reduceat(picked.draft_s, cuts.groups, axis=1).max(axis=0), air_s),
        air_s=air_s,
        verify_s=np.add.reduceat(verify_s, cuts.groups, axis=0),
        round_s=np.maximum.reduceat(round_s, cuts.groups, axis=0),
        num_batches=np.add.reduceat(
            (picked.num_streams > 0).astype(np.float64), cuts.groups, axis=0
        ),
        weight_per_token=np.add.reduceat(picked.weight_per_token, cuts.groups, axis=0),
        plain_weight=plain_weight,
        plain_pass_s=problem.plain_pass_s(num_plain),
    )
    price_s, cycle_s = price_of_totals(totals)
    # A head with guesses that clients fixed is not plain, so such plans are left out.
    price_s = np.where(head_guesses > 0, np.inf, price_s)
    at = row, option = divmod(int(price_s.argmin()), price_s.shape[1])
    cut = bounds[list(cuts.bounds[row])]
    gammas = options[option].copy()
    if cuts.heads[row] >= 0:
        gammas[: cut[1]] = options[0, : cut[1]]
    found = Found(float(price_s[at]), CyclePlan(tuple(cut.tolist()), gammas))
    pass_s, cycle = float(totals.plain_pass_s[at]), float(cycle_s[at])
    seed = Seed(
        int(num_plain[at]),
        cycle,
        min(0.95, max(0.0, float(totals.verify_s[at] - totals.num_batches[at] * pass_s) / cycle)),
        float(totals.weight_per_token[at]),
    )
    return found, seed
