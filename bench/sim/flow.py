"""Guesses that flow beside guesses in rounds, in the same simulated meshes.

Rounds run on simulated nodes, flow on the states of real ones. Plain decoding is run on both: where
it differs, the difference is in how prompts are read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from bench.sim.flow_world import FlowWorld
from bench.sim.random_scenarios import (
    random_scenario,
    with_acceptance_off_by,
    with_learnt_acceptance,
    with_uneven_tokens,
)
from bench.sim.world import Scenario, World
from policies.baselines import POLICIES

_FAR_S = 0.02
BELIEFS: dict[str, Callable[[Scenario], Scenario]] = {
    "known": lambda scenario: scenario,
    "learnt": with_learnt_acceptance,
    "off by up to 0.2": lambda scenario: with_acceptance_off_by(scenario, 0.2),
    "uneven tokens": with_uneven_tokens,
    "target 40 ms away": lambda scenario: replace(scenario, target_delay_s=_FAR_S),
}
# Whether streams wait for each other by the program's groups; None: where that promises more.
MODES: dict[str, bool | None] = {"auto": None, "open": False, "grouped": True}
_Job = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds a token of the mean client in one scenario: where guesses flow, plainly by the same
    states, by the joint plan of rounds, and plainly there."""

    seed: int
    flow_s: float
    plain_s: float
    joint_s: float
    ad_s: float


def compare_seeds(
    belief: str, mode: str, seeds: Sequence[int], num_passes: int, num_processes: int
) -> Iterator[Compared]:
    """Outcomes in the order of their seeds."""
    jobs = [(belief, mode, seed, num_passes) for seed in seeds]
    with ProcessPoolExecutor(num_processes) as pool:
        yield from pool.map(_compare, jobs)


def _compare(job: _Job) -> Compared:
    belief, mode, seed, num_passes = job
    scenario = BELIEFS[belief](random_scenario(seed, num_passes))
    return Compared(
        seed,
        FlowWorld(scenario, is_grouped=MODES[mode]).run().price_s,
        FlowWorld(scenario, guesses=False).run().price_s,
        *(World(scenario, POLICIES[name]).run().price_s for name in ("joint", "ad")),
    )


HEAD = "| belief | meshes | flow to joint | flow to plain | joint to plain |\n" + "|---" * 5 + "|"


def row(belief: str, found: Sequence[Compared]) -> str:
    """Geometric means, with the least and the most."""
    ratios = (
        [each.joint_s / each.flow_s for each in found],
        [each.plain_s / each.flow_s for each in found],
        [each.ad_s / each.joint_s for each in found],
    )
    told = (f"{_mean(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in ratios)
    return f"| {belief} | {len(found)} | {' | '.join(told)} |"


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))
