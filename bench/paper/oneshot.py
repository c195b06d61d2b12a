"""The one-shot problem: streams in a fixed order cut into batches that pass three stages once.

Zhu et al. 2025 (arXiv 2510.11331) put batching, speculation length and the shared medium into one
dynamic program; here it is a recursion on the clocks of the three stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from policies.acceptance import Floats, expected_token_matrix
from policies.latency import CostTable
from policies.plan import MAX_AUTO_GAMMA
from policies.problem import Ints, seconds_upto

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShot:
    """n streams in the order in which they are served, and when the three stages are free.

    weights: (n,) positive. alphas: (n,) acceptance in [0, 1]. ready_s: (n,) when each stream's
    last commit is known. contexts: (n,) cells each stream holds; every pass reads those of all
    streams, as the cache is one. catch_up: (n,) tokens each stream committed last, at least 1,
    which its first draft step has to read. max_gamma: (n,) in 0..8, at most the tokens still
    wanted less one: E is not cut elsewhere.
    air_fixed_s, air_per_guess_s: (n,) seconds of the medium for a stream that guesses, and for
    each guess. draft, target: seconds of a pass. rtt_s: there and back between draft and target.
    now_s and the clocks: seconds of one clock; a stage that was free in the past is free now.
    thetas: threshold options beside the uniform gammas, see `option_gammas`.
    objective: "sum" of weighted seconds a token, or "makespan", the most seconds a token of any
    stream (weights then only count in thresholds).
    Raises ValueError on arrays of different lengths and values out of range.
    """

    weights: Floats
    alphas: Floats
    ready_s: Floats
    contexts: Ints
    catch_up: Ints
    max_gamma: Ints
    air_fixed_s: Floats
    air_per_guess_s: Floats
    draft: CostTable
    target: CostTable
    rtt_s: float = 0.0
    now_s: float = 0.0
    draft_free_s: float = 0.0
    air_free_s: float = 0.0
    target_free_s: float = 0.0
    thetas: tuple[float, ...] = ()
    objective: Literal["sum", "makespan"] = "sum"

    def __post_init__(self) -> None:
        # Written so that NaN is refused too.
        allowed = {
            "weights": (self.weights > 0) & (self.weights < math.inf),
            "alphas": (self.alphas >= 0) & (self.alphas <= 1),
            "ready_s": np.isfinite(self.ready_s),
            "contexts": self.contexts >= 0,
            "catch_up": self.catch_up >= 1,
            "max_gamma": (self.max_gamma >= 0) & (self.max_gamma <= MAX_AUTO_GAMMA),
            "air_fixed_s": (self.air_fixed_s >= 0) & (self.air_fixed_s < math.inf),
            "air_per_guess_s": (self.air_per_guess_s >= 0) & (self.air_per_guess_s < math.inf),
        }
        for name, good in allowed.items():
            if good.shape != (self.num_streams,) or not good.size:
                raise ValueError(f"{name}: one value a stream, and at least one stream")
            if not good.all():
                raise ValueError(f"{name} has a value out of range")
        if not (0 <= self.rtt_s < math.inf and all(0 <= theta < math.inf for theta in self.thetas)):
            raise ValueError("rtt_s and thetas are finite and not negative")
        if not all(map(math.isfinite, (self.now_s, *self.free_s))):
            raise ValueError("clocks are finite")

    @property
    def num_streams(self) -> int:
        return len(self.weights)

    @property
    def free_s(self) -> tuple[float, float, float]:
        """When draft node, medium and target are free, not before now."""
        clocks = (self.draft_free_s, self.air_free_s, self.target_free_s)
        return (max(self.now_s, clocks[0]), max(self.now_s, clocks[1]), max(self.now_s, clocks[2]))

    @property
    def earned(self) -> Floats:
        """(n, 9) expected tokens of a round by gamma."""
        return expected_token_matrix(np.repeat(self.alphas[:, None], MAX_AUTO_GAMMA, axis=1))


@dataclass(frozen=True, slots=True)
class OneShotPlan:
    """Consecutive batches: `cuts` are where each ends, the last is n.

    gammas: of every stream. clocks: when draft node, medium and target are free after each batch.
    cost: by the problem's objective.
    """

    cuts: tuple[int, ...]
    gammas: tuple[int, ...]
    clocks: tuple[tuple[float, float, float], ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Stages:
    """Every batch: [..., j, i] is that of streams j to i - 1, no meaning where j >= i.

    ready_s: (n + 1, n + 1); the others (o, n + 1, n + 1), one for each option. pace: what a second
    until the batch is verified adds to the cost.
    """

    ready_s: Floats
    guesses: npt.NDArray[np.bool_]
    draft_s: Floats
    air_s: Floats
    verify_s: Floats
    pace: Floats


def evaluate(problem: OneShot, cuts: Sequence[int], gammas: Sequence[int]) -> OneShotPlan:
    """Clocks and cost of a given plan.

    cuts: ascending ends of the batches, the last n. gammas: (n,) within max_gamma.
    Raises ValueError where they do not fit the problem.
    """
    starts = (0, *cuts[:-1])
    if not cuts or cuts[-1] != problem.num_streams or any(np.diff((0, *cuts)) < 1):
        raise ValueError(f"cuts {tuple(cuts)} do not divide {problem.num_streams} streams")
    chosen, most = np.asarray(gammas, dtype=np.int64), problem.max_gamma
    if chosen.shape != most.shape or ((chosen < 0) | (chosen > most)).any():
        raise ValueError("gammas: one a stream, each from 0 to its max_gamma")
    stages = stages_of(problem, chosen[None, :])
    label = start_label(problem)
    clocks = []
    for start, end in zip(starts, cuts, strict=True):
        label = advance(problem, stages, label, np.array([start]), end)[:, 0]
        draft_s, air_s, target_s = (label[:3, 0] + problem.now_s).tolist()
        clocks.append((draft_s, air_s, target_s))
    return OneShotPlan(tuple(cuts), tuple(chosen.tolist()), tuple(clocks), float(label[3, 0]))


def option_gammas(problem: OneShot) -> Ints:
    """(o, n) guesses of each stream under every option of a batch, none of them twice.

    Uniform gammas 0, 1, ..., and one option a theta, where stream k takes its next guess while
    w_k (1/E(g-1) - 1/E(g)) >= theta; all cut at max_gamma.
    """
    uniform = np.arange(problem.max_gamma.max() + 1)[:, None]
    per_token = 1.0 / problem.earned
    gains = problem.weights[:, None] * (per_token[:, :-1] - per_token[:, 1:])
    # The gains fall with g, so counting those above the threshold is taking them in turn.
    taken = [(gains >= theta).sum(axis=1)[None, :] for theta in problem.thetas]
    wanted = np.concatenate([np.repeat(uniform, problem.num_streams, axis=1), *taken])
    return np.unique(np.minimum(wanted, problem.max_gamma), axis=0).astype(np.int64)


def joined(problem: OneShot, cost: Floats, added: Floats) -> Floats:
    """Cost of two parts of a plan together."""
    return cost + added if problem.objective == "sum" else np.maximum(cost, added)


def start_label(problem: OneShot) -> Floats:
    """(4, 1) clocks of draft node, medium and target, in seconds from now, and the cost so far."""
    return np.array([*problem.free_s, problem.now_s])[:, None] - problem.now_s


def advance(
    problem: OneShot, stages: Stages, labels: Floats, starts: npt.NDArray[np.intp], end: int
) -> Floats:
    """Labels (4, m) at positions `starts` (m,) after one more batch up to `end`: (4, o, m)."""
    draft_free_s, air_free_s, target_free_s, cost = labels
    ready_s, guesses = stages.ready_s[starts, end], stages.guesses[:, starts, end]
    half_rtt_s = problem.rtt_s / 2
    drafted_s = np.maximum(draft_free_s, ready_s + half_rtt_s) + stages.draft_s[:, starts, end]
    sent_s = np.maximum(air_free_s, drafted_s) + stages.air_s[:, starts, end]
    arrived_s = np.where(guesses, sent_s + half_rtt_s, ready_s)
    verified_s = np.maximum(target_free_s, arrived_s) + stages.verify_s[:, starts, end]
    added = stages.pace[:, starts, end] * verified_s
    return np.stack(
        [
            np.where(guesses, drafted_s, draft_free_s),
            np.where(guesses, sent_s, air_free_s),
            verified_s,
            joined(problem, cost, added),
        ]
    )


def stages_of(problem: OneShot, options: Ints) -> Stages:
    """What each batch takes in every stage under each option, (o, n) guesses a stream."""
    guessing = options > 0
    used_cells = int(problem.contexts.sum())
    first_tokens = _sums(np.where(guessing, problem.catch_up, 0))
    draft_of = seconds_upto(problem.draft, int(first_tokens.max()), used_cells)
    draft_s = draft_of[first_tokens]
    for gamma in range(2, int(options.max()) + 1):
        draft_s += draft_of[_sums((options >= gamma).astype(np.int64))]
    tokens = _sums(options + 1)
    target_of = seconds_upto(problem.target, int(tokens.max()), used_cells)
    air_s = np.where(guessing, problem.air_fixed_s + options * problem.air_per_guess_s, 0.0)
    per_token = 1.0 / problem.earned[np.arange(problem.num_streams), options]
    weighted = problem.weights * per_token
    return Stages(
        ready_s=_maxima(problem.ready_s[None, :] - problem.now_s)[0],
        guesses=first_tokens > 0,
        draft_s=draft_s,
        air_s=_sums(air_s),
        verify_s=target_of[tokens],
        pace=_sums(weighted) if problem.objective == "sum" else _maxima(per_token),
    )


def _sums(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """(o, n) values to (o, n + 1, n + 1): [o, j, i] the sum of values j to i - 1."""
    before = np.zeros((values.shape[0], values.shape[1] + 1), dtype=values.dtype)
    np.cumsum(values, axis=1, out=before[:, 1:])
    sums: npt.NDArray[Number] = np.maximum(before[:, None, :] - before[:, :, None], 0)
    return sums


def _maxima(values: Floats) -> Floats:
    """(o, n) values to (o, n + 1, n + 1): [o, j, i] the largest of values j to i - 1."""
    n = values.shape[1]
    out = np.zeros((values.shape[0], n + 1, n + 1))
    for start in range(n):
        np.maximum.accumulate(values[:, start:], axis=1, out=out[:, start, start + 1 :])
    return out
