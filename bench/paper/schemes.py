"""The schemes that are compared: who shares the band how, and who plans the decoding how.

`joint` is a rollout: it looks at the whole run of every other scheme in this very model, and of its
own planner with several ways to share the band, and takes the best for the metric in question. So
it is above none of them by construction. `joint-step` is the planner alone, without that net.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bench.paper import uplink
from bench.paper.labels import solve_fast
from bench.paper.model import Planner, run_static, run_waves
from bench.paper.oneshot import OneShot
from bench.paper.scenario import Scenario
from bench.paper.tasks import TaskSet
from bench.paper.world import World
from policies import baselines
from policies.acceptance import Floats
from policies.cuts import best_plan
from policies.cycle import CyclePlan
from policies.latency import CostTable
from policies.problem import CATCH_UP_TOKENS, CycleProblem, Ints

REDUCERS: Mapping[str, Callable[[Floats], float]] = {
    "mean": lambda seconds: float(seconds.mean()),
    "makespan": lambda seconds: float(seconds.max()),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from 0, (n,), until each prompt is there and until each task has ended."""

    upload_s: Floats
    latency_s: Floats


@dataclass(frozen=True, slots=True)
class Case:
    """What the schemes of one point and seed start from."""

    world: World
    tasks: TaskSet
    bandwidth_hz: float
    fixed_gamma: int

    @property
    def channel(self) -> tuple[Floats, Floats, float]:
        return self.tasks.payload_bits, self.tasks.snr_hz, self.bandwidth_hz


def joint_step(problem: CycleProblem) -> CyclePlan:
    """What the live planner finds; its margin for noisy costs is left out, these are exact."""
    return best_plan(problem).plan


def one_shot(problem: CycleProblem) -> CyclePlan:
    """The batches and gammas of the paper's recursion from idle stages, to be repeated."""
    n = problem.num_streams
    ones: Ints = np.ones(n, dtype=np.int64)
    plan = solve_fast(
        OneShot(
            weights=problem.weights,
            alphas=problem.alphas,
            ready_s=np.zeros(n),
            contexts=0 * ones,
            catch_up=CATCH_UP_TOKENS * ones,
            max_gamma=problem.most,
            air_fixed_s=np.full(n, problem.stream_air_s[0]),
            air_per_guess_s=np.full(n, problem.token_air_s[0]),
            draft=_table(problem.draft_s[0]),
            target=_table(problem.target_s),
            rtt_s=float(problem.rtt_s[0]),
        )
    )
    return CyclePlan((0, *plan.cuts), np.array(plan.gammas, dtype=np.int64))


def _table(seconds: Floats) -> CostTable:
    sizes = tuple(range(1, len(seconds)))
    return CostTable(sizes, tuple(seconds[1:].tolist()))


def _fixed(gamma: int) -> Planner:
    def plan(problem: CycleProblem) -> CyclePlan:
        gammas = baselines.uniform_gammas(problem, gamma)
        return CyclePlan((0, problem.num_streams), gammas)

    return plan


_PLANNERS: Mapping[str, Planner] = {
    "joint-step": joint_step,
    "one-shot": one_shot,
    "max-batch": baselines.max_batch,
    "single-stream": baselines.single_stream,
    "alternating": baselines.alternating,
    "greedy": baselines.greedy,
}


def run_scheme(name: str, case: Case) -> Outcome:
    """The run of one scheme other than `joint`."""
    world, tasks = case.world, case.tasks
    if name == "uniform-air":
        upload_s = uplink.uniform_s(*case.channel)
        return Outcome(upload_s, run_waves(world, tasks, upload_s, joint_step))
    upload_s = uplink.together_s(*case.channel)
    if name == "static":
        return Outcome(upload_s, run_static(world, tasks, upload_s, case.fixed_gamma))
    if name == "ad":
        ended_s = run_waves(world, tasks, upload_s, baselines.autoregressive, drafts=False)
    elif name == "fixed-gamma":
        ended_s = run_waves(world, tasks, upload_s, _fixed(case.fixed_gamma))
    elif name == "no-overlap":
        ended_s = run_waves(world, tasks, upload_s, joint_step, overlap=False)
    else:
        ended_s = run_waves(world, tasks, upload_s, _PLANNERS[name])
    return Outcome(upload_s, ended_s)


def grouped(case: Case, num_groups: int) -> Outcome:
    """The joint planner with the band given to groups of tasks in turn."""
    upload_s = uplink.in_groups_s(*case.channel, num_groups)
    return Outcome(upload_s, run_waves(case.world, case.tasks, upload_s, joint_step))


def applies(name: str, scenario: Scenario) -> bool:
    """Whether a scheme's plans are affordable for so many tasks."""
    return name != "one-shot" or scenario.tasks.num <= scenario.schemes.oneshot_max_tasks
