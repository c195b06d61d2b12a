"""The schemes that are compared: how each of them shares the band and plans the decoding.

`joint` is a rollout: in this same model it runs every other scheme, and its own planner with
several ways to share the band, and takes the best run for the metric in question. So by
construction it is never worse than another scheme. `joint-step` is the planner alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.paper import uplink
from bench.paper.model import Planner, run_static, run_waves
from bench.paper.tasks import TaskSet
from bench.paper.world import World
from policies import baselines
from policies.acceptance import Floats
from policies.cycle import CyclePlan
from policies.joint import best_plan
from policies.problem import CycleProblem

REDUCERS: Mapping[str, Callable[[Floats], float]] = {
    "mean": lambda seconds: float(seconds.mean()),
    "makespan": lambda seconds: float(seconds.max()),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times from 0 in seconds, (n,): until each prompt has arrived, and until each task ended."""

    upload_s: Floats
    latency_s: Floats


@dataclass(frozen=True, slots=True)
class Case:
    """Input of all schemes at one point and seed."""

    world: World
    tasks: TaskSet
    bandwidth_hz: float
    fixed_gamma: int

    @property
    def channel(self) -> tuple[Floats, Floats, float]:
        return self.tasks.payload_bits, self.tasks.snr_hz, self.bandwidth_hz


def joint_step(problem: CycleProblem) -> CyclePlan:
    """Return the live planner's plan, without its margin for noisy costs, since costs are exact."""
    return best_plan(problem).plan


def _fixed(gamma: int) -> Planner:
    def plan(problem: CycleProblem) -> CyclePlan:
        gammas = baselines.uniform_gammas(problem, gamma)
        return CyclePlan((0, problem.num_streams), gammas)

    return plan


_PLANNERS: Mapping[str, Planner] = {
    "joint-step": joint_step,
    "max-batch": baselines.max_batch,
    "single-stream": baselines.single_stream,
    "alternating": baselines.alternating,
    "greedy": baselines.greedy,
}


def run_scheme(name: str, case: Case) -> Outcome:
    """Run one scheme other than `joint`."""
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
    """Run the joint planner with the band given to groups of tasks in turn."""
    upload_s = uplink.in_groups_s(*case.channel, num_groups)
    return Outcome(upload_s, run_waves(case.world, case.tasks, upload_s, joint_step))
