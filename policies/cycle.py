"""The price of a cycle of batches that circulate beside plain streams.

A batch of guessing streams goes round: it is drafted, sent and verified. Streams without guesses
are in every pass of the target, and in passes of their own while no guesses are present. With P
plain streams, batches m of T_m tokens, v(t) seconds for a pass of t tokens, and weight w_k and
expected tokens E_k of stream k,

    head  = max over its draft nodes (rtt + max(A_m, draft + (A_m + a) / 2)),
    round_m = head + v(T_m + P) + v(P) / 2,
    C     = max(busiest draft node, busiest medium, sum v(T_m + P), max round_m with its waits),
    F     = C * sum w_k / E_k + sum w_p * C / (M + (C - sum v(T_m + P)) / v(P)).

Where messages to and from the target take time of a medium, A_m and head include those of the
batch: they come before and after its pass and delay nothing but that medium. A plain pass is then
no shorter than the airtime r(P) of its answer, because answers follow one another as passes do.
Answers take the share r(P) / v(P) of that medium, so messages of batches on it take
1 / (1 - r(P) / v(P)) times as long.

a and A_m are seconds on the air: a of a draft node's messages, A_m of all messages of the batch on
its medium. One node drafts while the messages of another are on the air: half of the others'
messages are sent before its request or after its answer, and the other half does not delay it. The
last term is the time of a plain token: a cycle has M passes with guesses and as many others as fit.
A longer cycle serves plain streams better and guessing ones worse. C is never shorter than the
stages allow, and longer where that makes F smaller.

Batches wait for one another's messages. Of the A seconds that a medium works in a cycle, B =
A (1 - 1/M) belong to the other batches, in 2 (M - 1) bursts. Each of a batch's own two bursts meets
one of them with the chance B / C and waits for half of it, and longer the less time the others
leave free (with the target on the medium a batch has four bursts):

    C = round + B^2 / (4 (M - 1) (C - B)), of which C is the greater root.

This is half the wait of independent bursts, because batches that have waited once are in step. F
never falls when a stage gets slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airdraft.policies.acceptance import Floats
from airdraft.policies.problem import CATCH_UP_TOKENS, CycleProblem, Ints


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Sums over all streams before each block boundary, for every option of gammas.

    counts: (g, J, b + 1, o) streams of each draft node that take draft step 1, 2, ... g. guesses:
    (J, b + 1, o) their guesses. weight_per_token: (b + 1, o) sum of w/E over guessing streams.
    plain_weight, num_plain: (b + 1, o) weight and number of the others.
    """

    counts: Ints
    guesses: Ints
    weight_per_token: Floats
    plain_weight: Floats
    num_plain: Ints


@dataclass(frozen=True, slots=True)
class Stages:
    """Stage times of batches, in any shape (...).

    draft_s: (J, ...). air_s: (I, ...). head_s: (...) time of a round without its pass: until the
    last guesses have arrived, and of messages to and from the target. num_streams: (...) guessing
    streams. num_guesses: (...) guesses that the target verifies. weight_per_token: (...) sum of
    w/E.
    """

    draft_s: Floats
    air_s: Floats
    head_s: Floats
    num_streams: Ints
    num_guesses: Ints
    weight_per_token: Floats

    @property
    def num_tokens(self) -> Ints:
        """(...) tokens of the batch's pass."""
        return self.num_streams + self.num_guesses

    def at(self, *index: Any, only: Ints | int = 1) -> Stages:
        """Returns some batches. index: of the last axes. only: 0 for batches to count as empty."""
        key = (..., *index)
        return Stages(
            self.draft_s[key] * only,
            self.air_s[key] * only,
            self.head_s[key],
            self.num_streams[key] * only,
            self.num_guesses[key] * only,
            self.weight_per_token[key] * only,
        )

    def busiest_s(self) -> Floats:
        """(...) seconds of the busiest draft node or medium."""
        busiest: Floats = np.maximum(self.draft_s.max(axis=0), self.air_s.max(axis=0))
        return busiest


def block_sums(problem: CycleProblem, gammas: Ints, bounds: Sequence[int] | Ints) -> BlockSums:
    """Sum up options over blocks of streams.

    gammas: (o, n). bounds: b + 1 ascending positions from 0 to n.
    """
    num_options, n = gammas.shape
    sizes = np.diff(bounds)
    num_blocks, num_nodes = len(sizes), len(problem.node_names)
    block_of = np.repeat(np.arange(num_blocks), sizes)
    levels = np.arange(1, problem.max_gamma + 1)
    # Only matrices of floats are multiplied fast; below 2^24 they count exactly.
    at_least: Ints = (gammas >= levels[:, None, None]).reshape(-1, n).astype(np.float32)
    cell_of = np.zeros((n, num_nodes * num_blocks), dtype=np.float32)
    cell_of[np.arange(n), problem.nodes * num_blocks + block_of] = 1.0
    counts = np.zeros((len(levels), num_nodes, num_blocks + 1, num_options), dtype=np.int64)
    by_block = (at_least @ cell_of).reshape(-1, num_options, num_nodes, num_blocks)
    counts[:, :, 1:] = np.cumsum(by_block.transpose(0, 2, 3, 1), axis=2)
    guesses = gammas > 0
    share = problem.weights / problem.earned[np.arange(n), gammas]
    member = np.zeros((n, num_blocks))
    member[np.arange(n), block_of] = 1.0
    columns = [guesses * share, ~guesses * problem.weights, ~guesses]
    sums = np.zeros((3, num_blocks + 1, num_options))
    by_row = (np.concatenate(columns) @ member).reshape(len(columns), num_options, -1)
    np.cumsum(by_row.transpose(0, 2, 1), axis=1, out=sums[:, 1:])
    num_plain = sums[2].astype(np.int64)
    return BlockSums(counts, counts.sum(axis=0), sums[0], sums[1], num_plain)


def stages_of(
    problem: CycleProblem, counts: Ints, guesses: Ints, weight_per_token: Floats
) -> Stages:
    """Returns the stage times of batches.

    counts: (g, J, ...), guesses: (J, ...), weight_per_token: (...).
    """
    num_nodes, num_media = len(problem.node_names), len(problem.medium_names)
    column = (num_nodes, *(1,) * (counts.ndim - 2))
    drafted = counts[0]
    some = drafted > 0
    # One flat look-up is fast. The first step of a draft also catches up, so it has more tokens.
    indices = counts + (np.arange(num_nodes) * problem.draft_s.shape[1]).reshape(column)
    indices[0] += (CATCH_UP_TOKENS - 1) * drafted
    draft_s = problem.draft_s.take(indices).sum(axis=0)
    air_s = problem.message_s(drafted, guesses)
    rtt_s = problem.rtt_s.reshape(column)
    if num_media == num_nodes and not problem.target_air.message_s:
        by_medium = air_s
        arrival_s = draft_s + rtt_s + air_s
    else:
        by_medium = np.zeros((num_media, *air_s.shape[1:]))
        for node, medium in enumerate(problem.media):
            by_medium[medium] += air_s[node]
        shared_s = by_medium[problem.media]
        arrival_s = rtt_s + np.maximum(shared_s, draft_s + (shared_s + air_s) / 2)
    arrival_s *= some
    num_streams, num_guesses = drafted.sum(axis=0), guesses.sum(axis=0)
    at_target_s = problem.target_air.of(num_streams, num_guesses)
    by_medium[problem.target_air.medium] += at_target_s
    head_s = arrival_s.max(axis=0) + at_target_s
    return Stages(draft_s, by_medium, head_s, num_streams, num_guesses, weight_per_token)


def verify_times(problem: CycleProblem, stages: Stages, num_plain: Ints) -> tuple[Floats, Floats]:
    """(...) seconds of each batch's pass and of its round; 0 for batches without guesses."""
    some = stages.num_streams > 0
    last = len(problem.target_s) - 1
    # The dynamic program assumes num_plain, so that the sum may exceed all tokens.
    num_tokens = np.minimum(stages.num_tokens + num_plain, last)
    verify_s = problem.target_s.take(num_tokens) * some
    waits_s = stages.air_s[problem.target_air.medium] * (problem.stretch(num_plain) - 1.0)
    round_s = stages.head_s + verify_s + problem.target_s[num_plain] / 2 + waits_s
    return verify_s, round_s * some


@dataclass(frozen=True, slots=True)
class Totals:
    """The inputs of `price_of_totals`; arrays of one shape (...).

    busy_s: seconds of the busiest draft node or medium. air_s: seconds of the medium on which
    batches wait for one another; 0 where one batch runs at a time. verify_s: seconds of all passes
    with guesses. round_s: seconds of the longest round.
    """

    busy_s: Floats
    air_s: Floats
    verify_s: Floats
    round_s: Floats
    num_batches: Floats
    weight_per_token: Floats
    plain_weight: Floats
    plain_pass_s: Floats

    @property
    def natural_s(self) -> Floats:
        """(...) C if it is not prolonged for plain streams."""
        rounds_s = rounds_with_waits(self.round_s, self.air_s, self.num_batches)
        longest: Floats = np.maximum(np.maximum(self.busy_s, self.verify_s), rounds_s)
        return longest


def totals_of(
    problem: CycleProblem,
    stages: Stages,
    times: tuple[Floats, Floats],
    num_plain: Ints | int,
    plain_weight: Floats,
) -> Totals:
    """(...) totals of plans; stages, times: of their batches, on the last axis.

    times: seconds of passes and rounds, as `verify_times` returns them.
    """
    verify_s, round_s = times
    air_s = problem.busiest_air_s(stages.air_s.sum(axis=-1), num_plain)
    return Totals(
        busy_s=np.maximum(stages.draft_s.sum(axis=-1).max(axis=0), air_s),
        air_s=air_s,
        verify_s=verify_s.sum(axis=-1),
        round_s=round_s.max(axis=-1),
        num_batches=(stages.num_streams > 0).sum(axis=-1).astype(np.float64),
        weight_per_token=stages.weight_per_token.sum(axis=-1),
        plain_weight=plain_weight,
        plain_pass_s=problem.plain_pass_s(num_plain),
    )


def rounds_with_waits(round_s: Floats, air_s: Floats, num_batches: Floats) -> Floats:
    """(...) seconds of the longest round with its waits for others' messages (module docstring)."""
    others = np.maximum(0.0, num_batches - 1.0)
    others_s = air_s * others / (others + 1.0)
    meeting = others_s * others_s / np.maximum(1.0, others)
    longer: Floats = (round_s + others_s + np.sqrt((round_s - others_s) ** 2 + meeting)) / 2
    return longer


def price_of_totals(totals: Totals) -> tuple[Floats, Floats]:
    """(...) F and C of plans (module docstring); C is v(P) for plans without guesses."""
    plain_pass_s = np.where(totals.plain_pass_s > 0, totals.plain_pass_s, 1.0)
    natural_s = totals.natural_s
    # dF/dC = 0: weight_per_token = weight * stolen / (M + (C - V)/v)^2, stolen = V/v - M.
    stolen = np.maximum(0.0, totals.verify_s / plain_pass_s - totals.num_batches)
    has_both = (totals.num_batches > 0) & (totals.plain_weight > 0)
    weight_per_token = np.where(totals.weight_per_token > 0, totals.weight_per_token, 1.0)
    wanted_s = plain_pass_s * (np.sqrt(stolen * totals.plain_weight / weight_per_token) + stolen)
    cycle_s = np.where(has_both, np.maximum(natural_s, wanted_s), natural_s)
    passes = totals.num_batches + (cycle_s - totals.verify_s) / plain_pass_s
    plain_s = cycle_s / np.where(has_both, passes, 1.0)
    none = totals.num_batches == 0
    price_s = cycle_s * totals.weight_per_token + totals.plain_weight * np.where(
        none, plain_pass_s, plain_s
    )
    return price_s, np.where(none, totals.plain_pass_s, cycle_s)


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """One plan of a problem. bounds: m + 1 positions that cut it into batches. gammas: (n,)."""

    bounds: tuple[int, ...]
    gammas: Ints


@dataclass(frozen=True, slots=True)
class CycleCost:
    """The price of one plan with its parts.

    natural_s: C if it is not prolonged for plain streams. round_s: (m,) round of each batch without
    waits for the messages of others.
    """

    price_s: float
    cycle_s: float
    natural_s: float
    stages: Stages
    verify_s: Floats
    round_s: Floats


def evaluate(problem: CycleProblem, plan: CyclePlan) -> CycleCost:
    """Compute the price of a plan."""
    sums = block_sums(problem, plan.gammas[None], plan.bounds)
    counts = np.diff(sums.counts[..., 0], axis=2)
    guesses = np.diff(sums.guesses[..., 0], axis=1)
    weight_per_token = np.diff(sums.weight_per_token[:, 0])
    stages = stages_of(problem, counts, guesses, weight_per_token)
    num_plain = int(sums.num_plain[-1, 0])
    verify_s, round_s = verify_times(problem, stages, np.array(num_plain))
    plain_weight = sums.plain_weight[-1, 0]
    totals = totals_of(problem, stages, (verify_s, round_s), num_plain, plain_weight)
    price_s, cycle_s = price_of_totals(totals)
    natural_s = float(totals.natural_s)
    return CycleCost(float(price_s), float(cycle_s), natural_s, stages, verify_s, round_s)
