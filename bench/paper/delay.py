"""The best speculation length of one stream by round trip time (arXiv 2606.20591).

The coordinator has one of two places. Beside the draft node, every round crosses the network, so it
carries at least one guess. On the target's machine, plain decoding crosses no network, so beyond a
critical delay guesses no longer pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.paper.scenario import Scenario
from bench.paper.world import world_of
from policies.acceptance import Floats
from policies.cycle import CyclePlan, evaluate
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Observation, StreamView
from policies.problem import CATCH_UP_TOKENS, CycleProblem, Ints, problem_of


@dataclass(frozen=True, slots=True)
class DelayCurve:
    """Best gammas for one acceptance. rtt_s: (p,). apart, one_box: (p,) best gammas by place.

    critical_s: round trip time above which no guess pays on one box; 0 if none ever pays. slope:
    fitted growth of the best gamma when the delay grows e-fold. law: the same by theory,
    1/ln(1/alpha). residual: root mean square of the fit's errors, in guesses.
    """

    alpha: float
    rtt_s: Floats
    apart: Ints
    one_box: Ints
    critical_s: float
    slope: float
    intercept: float
    residual: float

    @property
    def law(self) -> float:
        return 1.0 / math.log(1.0 / self.alpha)


def delay_curves(scenario: Scenario) -> tuple[DelayCurve, ...]:
    """Return the curves of all acceptances."""
    delay = scenario.delay
    rtt_s = np.geomspace(delay.min_rtt_s, delay.max_rtt_s, delay.num_points)
    return tuple(_curve(scenario, alpha, rtt_s) for alpha in delay.alphas)


def prices_s(problem: CycleProblem, gammas: Sequence[int], rtt_s: float) -> Floats:
    """Return the seconds per token of the only stream for each gamma."""
    far = replace(problem, rtt_s=np.array([rtt_s]))
    return np.array(
        [evaluate(far, CyclePlan((0, 1), np.array([gamma]))).price_s for gamma in gammas]
    )


def stream_problem(scenario: Scenario, alpha: float) -> CycleProblem:
    """Return the problem of one stream with up to delay.max_gamma guesses."""
    delay, world = scenario.delay, world_of(scenario)
    most = delay.max_gamma
    view = StreamView(0, alpha, most + 1, fixed_gamma=most, draft="draft")
    placeholder = CostTable((1,), (1.0,))
    costs = NodeCosts(placeholder, placeholder)
    problem = problem_of(
        Observation(
            (view,), costs, (DraftView("draft", costs, world.link),), token_bits=world.token_bits
        )
    )
    return replace(
        problem,
        target_s=world.target.seconds_upto(most + 1, 1, delay.context),
        draft_s=world.draft.seconds_upto(CATCH_UP_TOKENS, 1, delay.context)[None],
    )


def _curve(scenario: Scenario, alpha: float, rtt_s: Floats) -> DelayCurve:
    problem = stream_problem(scenario, alpha)
    gammas = range(scenario.delay.max_gamma + 1)
    # The round trip of a single batch is added to its round, which is what bounds the cycle.
    earned = problem.earned[0]
    round_s = prices_s(problem, gammas, 0.0)[1:] * earned[1:]
    plain_s = float(problem.target_s[1])
    prices = np.array([prices_s(problem, gammas, rtt) for rtt in rtt_s.tolist()])
    apart = prices[:, 1:].argmin(axis=1) + 1
    far = rtt_s >= scenario.delay.fit_above_s
    slope, intercept, residual = _fit(np.log(rtt_s[far]), apart[far].astype(np.float64))
    return DelayCurve(
        alpha=alpha,
        rtt_s=rtt_s,
        apart=apart,
        one_box=prices.argmin(axis=1),
        critical_s=max(0.0, float((earned[1:] * plain_s - round_s).max())),
        slope=slope,
        intercept=intercept,
        residual=residual,
    )


def _fit(x: Floats, y: Floats) -> tuple[float, float, float]:
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    return float(slope), float(intercept), float(np.sqrt((rest**2).mean()))
