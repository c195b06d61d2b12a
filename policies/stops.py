"""When a draft should stop: the least chance of being accepted at which a guess pays.

A guess adds dV seconds to its batch's pass and dC to the cycle C, and where it is accepted, with
chance p, adds p to what its stream commits. With the price F of the plan as policies/cycle.py has
it (W_p the weight of the plain streams, v seconds of one of their passes, M batches, V seconds of
their passes, n = M + (C - V)/v passes a cycle) it pays where

    p C w/E^2 > dC dF/dC + dV dF/dV,
    dF/dC = sum w/E + W_p (M - V/v) / n^2,        dF/dV = W_p C / (v n^2).

p is the chance that this guess and all before it are accepted. dC is what the guess adds to the
stages that bound the cycle, nothing where C is drawn out for plain streams and so at its best.
Tables have steps, so slopes are means over some tokens. A guess of a stream with a long text takes
more of the target's time than one of a short one.

E is what the stream commits in a cycle of the plan; but the stop itself makes it less. Where
guesses are alike, each accepted with chance a once it is made, k of them are made as long as a^k is
worth it beside the k - 1 before, and a stop above a^k would say that they should not have been. It
would be obeyed, E would fall, and with it what is learnt of the stream, until it is taken for one
that is not worth guessing for. So stops are no higher than that, nor than 0.75: behind a higher one
all that can be learnt is that guesses are seldom made.
"""

from __future__ import annotations

import numpy as np

from policies.acceptance import Floats
from policies.cycle import CycleCost, CyclePlan
from policies.problem import CycleProblem, Ints

# A stage this near the longest bounds the cycle too: plans are balanced, and tables noisy.
_NEARLY = 0.9
# Between the first token of a pass and the second there often is a step, which all guesses share.
_LEAST_REACH = 2
_MOST_STOP = 0.75
_NOTHING_S = 1e-12
# Nothing is accepted for sure.
_MOST_CHANCE = 0.98


def stop_chances(problem: CycleProblem, plan: CyclePlan, cost: CycleCost) -> Floats:
    """(n,) least chances, whole percent in [0, 1].

    0 for streams that make no guesses, and for those whose client asked for a number of them.
    """
    chances = np.zeros(problem.num_streams)
    limit_s = _NEARLY * cost.natural_s
    longest_s = float(cost.lap_s.max(initial=0.0))
    # Where nothing else is as long as the cycle, the longest lap is, with what it waits for others.
    lap_limit_s = min(limit_s, _NEARLY * longest_s) if cost.busiest_s < cost.natural_s else limit_s
    is_drawn_out = cost.cycle_s > cost.natural_s * 1.001
    target_binds = bool(cost.verify_s.sum() >= limit_s)
    busy = cost.stages.draft_s.sum(axis=1) >= limit_s, cost.stages.air_s.sum(axis=1) >= limit_s
    num_plain = int((plan.gammas == 0).sum())
    by_cycle, by_verify = _slopes_of_price(problem, plan, cost, num_plain)
    for m, (first, end) in enumerate(zip(plan.bounds, plan.bounds[1:], strict=False)):
        mine = first + np.flatnonzero(plan.gammas[first:end])
        if not len(mine):
            continue
        nodes = problem.nodes[mine]
        reach = max(_LEAST_REACH, len(mine))
        slope_s = _slope(problem.target_s, cost.stages.num_tokens[m] + num_plain, reach)
        verify_s = np.maximum(0.0, slope_s + problem.extra_s[mine])
        beside = np.bincount(nodes, minlength=len(problem.node_names))
        # A step serves all streams of the batch that the node still drafts for; and the lap, which
        # waits for the last of all of them, is longer only where no other goes on.
        step_s = problem.draft_s[nodes, beside[nodes]]
        alone_s = step_s * _chance_of_none_beside(problem, mine, plan.gammas[mine])
        air_s = problem.token_air_s[nodes]
        media, way = problem.media[nodes], problem.target_air
        on_medium_s, way_s = air_s * busy[1][media], 0.0
        if way is not None:
            way_s = way.guess_s
            both_s = way_s * busy[1][way.medium] + on_medium_s * (media == way.medium)
            on_medium_s = np.maximum(on_medium_s, both_s)
        lap_binds = cost.lap_s[m] >= lap_limit_s
        added_s = np.maximum(
            np.where(lap_binds, verify_s + alone_s + air_s + way_s, verify_s * target_binds),
            np.maximum(step_s / beside[nodes] * busy[0][nodes], on_medium_s),
        )
        dearer = verify_s * by_verify + (0.0 if is_drawn_out else added_s * by_cycle)
        worth = cost.cycle_s * problem.weights[mine] / np.maximum(dearer, _NOTHING_S)
        earned = problem.earned[mine, plan.gammas[mine]]
        steady = _steady_chances(_chances_of_made(problem, mine), worth, plan.gammas[mine])
        chances[mine] = (problem.least[mine] == 0) * np.minimum(earned**2 / worth, steady)
    # Whole percent: nothing finer is known, and two equal plans have equal stops.
    rounded: Floats = np.clip(np.nan_to_num(chances, nan=_MOST_STOP), 0.0, _MOST_STOP).round(2)
    return rounded


def _slopes_of_price(
    problem: CycleProblem, plan: CyclePlan, cost: CycleCost, num_plain: int
) -> tuple[float, float]:
    """dF/dC and dF/dV of the module's docstring."""
    is_plain = plan.gammas == 0
    worth = float(cost.stages.worth.sum())
    plain_weight = float(problem.weights[is_plain].sum())
    if not num_plain or plain_weight == 0.0:
        return worth, 0.0
    pass_s, verify_s = float(problem.plain_pass_s(num_plain)), float(cost.verify_s.sum())
    num_batches = int((cost.verify_s > 0).sum())
    passes = num_batches + (cost.cycle_s - verify_s) / pass_s
    by_cycle = worth + plain_weight * (num_batches - verify_s / pass_s) / passes**2
    return max(0.0, by_cycle), plain_weight * cost.cycle_s / (pass_s * passes**2)


def _chances_of_made(problem: CycleProblem, mine: Ints) -> Floats:
    """(k,) chance of a guess that is made to be accepted, if those before it are."""
    kept = np.maximum(problem.sent[mine, 1], 1e-9)
    made: Floats = np.minimum(_MOST_CHANCE, problem.alphas[mine] / kept)
    return made


def _chance_of_none_beside(problem: CycleProblem, mine: Ints, gammas: Ints) -> Floats:
    """(k,) probability that no other stream of a batch goes on where this one is to stop or not.

    That is about where it stops on average: the step after that guess, which has cost its own one.
    """
    steps = np.rint(problem.sent[mine, gammas]).astype(np.int64) + 1
    steps = np.maximum(0, np.minimum(steps, gammas - 1))
    # (k, k): whether each one, by column, runs that step of each, by row.
    goes_on = problem.going[mine][:, steps].T * (steps[:, None] < gammas)
    np.fill_diagonal(goes_on, 0.0)
    alone: Floats = (1.0 - goes_on).prod(axis=1)
    return alone


def _steady_chances(chances: Floats, worth: Floats, gammas: Ints) -> Floats:
    """(k,) stops that let guesses which are all alike go on as long as they pay.

    chances: (k,) of each guess. worth: (k,) what a token a cycle is worth at E = 1, in guesses.
    """
    stops = np.ones(len(chances))
    earned, so_far = np.ones(len(chances)), np.ones(len(chances))
    goes_on = np.ones(len(chances), dtype=bool)
    for position in range(int(gammas.max(initial=0))):
        goes_on &= position < gammas
        before, so_far = so_far, so_far * chances
        least = earned**2 / worth
        ends = goes_on & (so_far < least)
        # Between the last one that pays and the first that does not.
        between = np.minimum(least, np.sqrt(before * so_far)) if position else least
        stops = np.where(ends, between, stops)
        goes_on &= ~ends
        earned = np.where(goes_on, earned + so_far, earned)
        stops = np.where(goes_on, earned**2 / worth, stops)
    return stops


def _slope(table: Floats, num_tokens: float, reach: int) -> float:
    """Seconds that a token adds to a pass, over `reach` tokens on either side."""
    last = len(table) - 1
    high = min(last, int(num_tokens) + reach)
    low = max(1, int(num_tokens) - reach)
    if high <= low:
        return 0.0
    return float((table[high] - table[low]) / (high - low))
