"""The price of a cycle: batches that circulate, plain streams that ride along.

Batches of guessing streams go round: drafted, sent, verified. Streams without guesses ride in
every pass of the target, and in passes of their own while no guesses are there. With P plain
streams, batches m of T_m tokens and v(t) seconds for a pass of t tokens,

    head  = max over its draft nodes (rtt + max(A_m, draft + (A_m + a) / 2)),
    round_m = head + v(T_m + P) + v(P) / 2,
    C     = max(busiest draft node, busiest medium, sum v(T_m + P), max round_m with its waits),
    F     = C * sum w_k / E_k + sum w_p * C / (M + (C - sum v(T_m + P)) / v(P)).

Where messages to and from the target take of a medium, A_m and head have those of the batch as
well: they are before and after its pass, and in nobody's way but on that medium. Plain passes are
no shorter than their answers r(P) then, for these follow one another as passes do; and as these
have r(P) / v(P) of that medium, what batches send there takes 1 / (1 - r(P) / v(P)) times as long.

a and A_m are seconds on the air: of a draft node's messages, and of all those of the batch on its
medium. One node drafts while the messages of another are on the air: half of what is theirs is
before its request or after its answer, the other half is not in its way. The last term is the time
of a plain token: M passes with guesses a cycle and as many others as fit. A longer cycle serves
plain streams better and guessing ones worse; C is never shorter than the stages allow, and longer
where that makes F smaller.

Batches wait for one another's messages. Of the seconds A that a medium works in a cycle B =
A (1 - 1/M) are the others', in 2 (M - 1) bursts; each of a batch's own two bursts meets one with
the chance B / C and waits for half of it, and the longer the less the others leave free (a target
on the medium makes that four bursts):

    C = round + B^2 / (4 (M - 1) (C - B)), of which C is the greater root.

It is half of what bursts that know nothing of each other would wait, for batches that have waited
once are in step. F never falls when a stage gets slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies.acceptance import Floats
from policies.problem import CATCH_UP_TOKENS, CycleProblem, Ints


@dataclass(frozen=True, slots=True)
class BlockSums:
    """Sums over the blocks before each boundary, for every option: the blocks are consecutive.

    counts: (g, J, b + 1, o) streams of each draft node that take step 1, 2, ... g; guesses: (J,
    b + 1, o) of them all. worth: (b + 1, o) sum of w/E over guessing streams. plain_weight,
    num_plain: (b + 1, o) of the others.
    """

    counts: Ints
    guesses: Ints
    worth: Floats
    plain_weight: Floats
    num_plain: Ints


@dataclass(frozen=True, slots=True)
class Stages:
    """Stage times of runs of streams taken as one batch; any shape (...).

    draft_s: (J, ...). air_s: (I, ...). head_s: (...) of a round that no pass takes: until the last
    guesses are there, and what messages to and from the target take.
    num_streams: (...) that guess. num_guesses: (...) that the target verifies. worth: (...) sum of
    w/E.
    """

    draft_s: Floats
    air_s: Floats
    head_s: Floats
    num_streams: Ints
    num_guesses: Ints
    worth: Floats

    @property
    def num_tokens(self) -> Ints:
        """(...) in the batch's pass."""
        return self.num_streams + self.num_guesses

    def at(self, *index: Any, only: Ints | int = 1) -> Stages:
        """The same of some batches; index: into the last axes. only: 0 for those taken as empty."""
        place = (..., *index)
        return Stages(
            self.draft_s[place] * only,
            self.air_s[place] * only,
            self.head_s[place],
            self.num_streams[place] * only,
            self.num_guesses[place] * only,
            self.worth[place] * only,
        )

    def busiest_s(self) -> Floats:
        """(...) seconds of the draft node or medium that works longest."""
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
    # As floats, because only those are multiplied fast; below 2^24 they count exactly.
    at_least: Ints = (gammas >= levels[:, None, None]).reshape(-1, n).astype(np.float32)
    place = np.zeros((n, num_nodes * num_blocks), dtype=np.float32)
    place[np.arange(n), problem.nodes * num_blocks + block_of] = 1.0
    counts = np.zeros((len(levels), num_nodes, num_blocks + 1, num_options), dtype=np.int64)
    by_block = (at_least @ place).reshape(-1, num_options, num_nodes, num_blocks)
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


def stages_of(problem: CycleProblem, counts: Ints, guesses: Ints, worth: Floats) -> Stages:
    """Stage times of batches from counts, (g, J, ...), guesses, (J, ...), and (...) of the rest."""
    num_nodes, num_media = len(problem.node_names), len(problem.medium_names)
    column = (num_nodes, *(1,) * (counts.ndim - 2))
    asked = counts[0]
    some = asked > 0
    # One flat look-up; the first step of a draft also catches up, so it takes more tokens.
    places = counts + (np.arange(num_nodes) * problem.draft_s.shape[1]).reshape(column)
    places[0] += (CATCH_UP_TOKENS - 1) * asked
    draft_s = problem.draft_s.take(places).sum(axis=0)
    air_s = some * problem.message_air_s.reshape(column)
    air_s += asked * problem.stream_air_s.reshape(column)
    air_s += guesses * problem.token_air_s.reshape(column)
    rtt_s = problem.rtt_s.reshape(column)
    if num_media == num_nodes and problem.target_air is None:
        by_medium = air_s
        arrival_s = draft_s + rtt_s + air_s
    else:
        by_medium = np.zeros((num_media, *air_s.shape[1:]))
        for node, medium in enumerate(problem.media):
            by_medium[medium] += air_s[node]
        shared_s = by_medium[problem.media]
        arrival_s = rtt_s + np.maximum(shared_s, draft_s + (shared_s + air_s) / 2)
    arrival_s *= some
    head_s, num_streams, num_guesses = arrival_s.max(axis=0), asked.sum(axis=0), guesses.sum(axis=0)
    if problem.target_air is not None:
        way_s = problem.target_air.of(num_streams, num_guesses)
        by_medium[problem.target_air.medium] += way_s
        head_s += way_s
    return Stages(
        draft_s,
        by_medium,
        head_s,
        num_streams,
        num_guesses,
        worth,
    )


def verify_times(problem: CycleProblem, stages: Stages, num_plain: Ints) -> tuple[Floats, Floats]:
    """Seconds of each batch's pass and of its round; zero for batches without guesses."""
    some = stages.num_streams > 0
    last = len(problem.target_s) - 1
    # Only a guess at num_plain, in the dynamic program, can add up to more than there is.
    num_tokens = np.minimum(stages.num_tokens + num_plain, last)
    verify_s = problem.target_s.take(num_tokens) * some
    round_s = stages.head_s + verify_s + problem.target_s[num_plain] / 2
    if problem.target_air is not None:
        waits = problem.stretch(num_plain) - 1.0
        round_s = round_s + stages.air_s[problem.target_air.medium] * waits
    return verify_s, round_s * some


@dataclass(frozen=True, slots=True)
class Totals:
    """What the price of a cycle is made of; arrays of one shape (...), see `price_of_totals`.

    busy_s: of the draft node or medium that works longest. air_s: of the medium on which batches
    wait for one another; 0 where one goes at a time.
    """

    busy_s: Floats
    air_s: Floats
    verify_s: Floats
    round_s: Floats
    num_batches: Floats
    worth: Floats
    plain_weight: Floats
    plain_pass_s: Floats

    @property
    def natural_s(self) -> Floats:
        """(...) C without waiting for plain streams."""
        rounds_s = laps_with_waits(self.round_s, self.air_s, self.num_batches)
        longest: Floats = np.maximum(np.maximum(self.busy_s, self.verify_s), rounds_s)
        return longest


def laps_with_waits(round_s: Floats, air_s: Floats, num_batches: Floats) -> Floats:
    """(...) seconds of the longest round with what it waits for others' messages (see above)."""
    others = np.maximum(0.0, num_batches - 1.0)
    others_s = air_s * others / (others + 1.0)
    meeting = others_s * others_s / np.maximum(1.0, others)
    longer: Floats = (round_s + others_s + np.sqrt((round_s - others_s) ** 2 + meeting)) / 2
    return longer


def price_of_totals(totals: Totals) -> tuple[Floats, Floats]:
    """F and C of plans (module docstring); C is v(P) where nobody guesses."""
    plain_pass_s = np.where(totals.plain_pass_s > 0, totals.plain_pass_s, 1.0)
    natural_s = totals.natural_s
    # dF/dC = 0: worth = weight * stolen / (M + (C - V)/v)^2, stolen = V/v - M.
    stolen = np.maximum(0.0, totals.verify_s / plain_pass_s - totals.num_batches)
    has_both = (totals.num_batches > 0) & (totals.plain_weight > 0)
    worth = np.where(totals.worth > 0, totals.worth, 1.0)
    wanted_s = plain_pass_s * (np.sqrt(stolen * totals.plain_weight / worth) + stolen)
    cycle_s = np.where(has_both, np.maximum(natural_s, wanted_s), natural_s)
    passes = totals.num_batches + (cycle_s - totals.verify_s) / plain_pass_s
    plain_s = cycle_s / np.where(has_both, passes, 1.0)
    none = totals.num_batches == 0
    price_s = cycle_s * totals.worth + totals.plain_weight * np.where(none, plain_pass_s, plain_s)
    return price_s, np.where(none, totals.plain_pass_s, cycle_s)


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """One plan of a problem. bounds: of the batches, m + 1 positions. gammas: (n,)."""

    bounds: tuple[int, ...]
    gammas: Ints


@dataclass(frozen=True, slots=True)
class CycleCost:
    """The price of one plan in full. natural_s: C without waiting for plain streams. round_s: (m,)
    of each batch if no other was on the air."""

    price_s: float
    cycle_s: float
    natural_s: float
    stages: Stages
    verify_s: Floats
    round_s: Floats


def evaluate(
    problem: CycleProblem,
    plan: CyclePlan,
    *,
    equal_shares: bool = False,
    overlap: bool = True,
) -> CycleCost:
    """Price of a plan.

    equal_shares: links of a medium send at once, each with a constant equal share of it, instead
    of one after another. overlap: without it a batch starts when the one before has ended.
    """
    sums = block_sums(problem, plan.gammas[None], plan.bounds)
    counts = np.diff(sums.counts[..., 0], axis=2)
    guesses = np.diff(sums.guesses[..., 0], axis=1)
    stages = stages_of(problem, counts, guesses, np.diff(sums.worth[:, 0]))
    if equal_shares:
        stages = _with_equal_shares(problem, counts[0], guesses, stages)
    num_plain = int(sums.num_plain[-1, 0])
    verify_s, round_s = verify_times(problem, stages, np.array(num_plain))
    air_s = float(problem.busiest_air_s(stages.air_s.sum(axis=1), num_plain))
    totals = Totals(
        busy_s=np.array(max(stages.draft_s.sum(axis=1).max(), air_s)),
        air_s=np.array(air_s if overlap else 0.0),
        verify_s=verify_s.sum(),
        round_s=round_s.max() if overlap else round_s.sum(),
        num_batches=np.array((stages.num_streams > 0).sum(), dtype=np.float64),
        worth=stages.worth.sum(),
        plain_weight=sums.plain_weight[-1, 0],
        plain_pass_s=problem.plain_pass_s(num_plain),
    )
    price_s, cycle_s = price_of_totals(totals)
    natural_s = float(totals.natural_s)
    return CycleCost(float(price_s), float(cycle_s), natural_s, stages, verify_s, round_s)


def _with_equal_shares(problem: CycleProblem, asked: Ints, guesses: Ints, stages: Stages) -> Stages:
    air_s = (
        (asked > 0) * problem.message_air_s[:, None]
        + asked * problem.stream_air_s[:, None]
        + guesses * problem.token_air_s[:, None]
    )
    by_medium = np.zeros_like(stages.air_s)
    for medium in range(len(by_medium)):
        mine = problem.media == medium
        by_medium[medium] = (asked[mine] > 0).sum(axis=0) * air_s[mine].max(axis=0, initial=0.0)
    arrival_s = stages.draft_s + problem.rtt_s[:, None] + by_medium[problem.media]
    head_s = (arrival_s * (asked > 0)).max(axis=0)
    if problem.target_air is not None:
        way_s = problem.target_air.of(stages.num_streams, stages.num_guesses)
        by_medium[problem.target_air.medium] += way_s
        head_s += way_s
    return replace(stages, air_s=by_medium, head_s=head_s)
