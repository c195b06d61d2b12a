"""The closed loop: random simulated meshes under every policy, in virtual time."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.sim.random_scenarios import (
    random_scenario,
    steady,
    with_acceptance_off_by,
    with_draft_costs_off_by,
    with_learnt_acceptance,
    with_uneven_tokens,
)
from bench.sim.world import Scenario, World
from policies.baselines import POLICIES
from policies.joint import joint_plan
from policies.plan import Observation, Plan

# Uniform air shares and no overlap are the joint plan under a handicap, not choices of their own.
COMPARED = (
    "joint",
    "ad",
    "fixed-gamma",
    "fixed-gamma-alternating",
    "max-batch",
    "single-stream",
    "alternating",
    "greedy",
)
BELIEFS: dict[str, Callable[[Scenario], Scenario]] = {
    "acceptance off by up to 0.2": lambda s: with_acceptance_off_by(s, 0.2),
    "draft costs believed half": lambda s: with_draft_costs_off_by(s, 0.5),
    "draft costs believed double": lambda s: with_draft_costs_off_by(s, 2.0),
    "acceptance learnt": with_learnt_acceptance,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario: seconds a token by policy, and of the joint planner that believes wrongly."""

    seed: int
    num_clients: int
    num_drafts: int
    prices_s: dict[str, float]
    believing_s: dict[str, float]
    worst_share: float
    ad_worst_share: float
    num_guesses: int

    @property
    def to_best(self) -> float:
        return min(self.prices_s.values()) / self.prices_s["joint"]

    @property
    def to_ad(self) -> float:
        return self.prices_s["ad"] / self.prices_s["joint"]


def run_seed(seed: int, num_passes: int) -> Outcome:
    """Every policy on one random scenario."""
    scenario = random_scenario(seed, num_passes)
    results = {name: World(scenario, POLICIES[name]).run() for name in COMPARED}
    joint = results["joint"]
    believing = {
        name: World(change(scenario), POLICIES["joint"]).run().price_s
        for name, change in BELIEFS.items()
    }
    return Outcome(
        seed,
        len(scenario.clients),
        len(scenario.drafts),
        {name: result.price_s for name, result in results.items()},
        believing,
        joint.worst_share,
        results["ad"].worst_share,
        joint.num_guesses,
    )


def run_many(seeds: Sequence[int], num_passes: int, processes: int) -> Iterator[Outcome]:
    """Outcomes in the order of their seeds."""
    if processes == 1:
        for seed in seeds:
            yield run_seed(seed, num_passes)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_seed, seeds, [num_passes] * len(seeds))


def steady_ratio(seed: int, num_passes: int) -> tuple[float, bool]:
    """Simulated over predicted price of the joint plan in a steady mesh; whether any guess."""
    world = World(steady(random_scenario(seed, num_passes)), POLICIES["joint"])
    result = world.run()
    prediction = world.plan.prediction
    assert prediction is not None
    return result.price_s * len(result.clients) / prediction.price_s, bool(world.plan.batches)


def steady_report(seeds: Sequence[int], num_passes: int) -> str:
    """How well predicted prices hold where nobody comes or goes."""
    found = [steady_ratio(seed, num_passes) for seed in seeds]
    lines = [f"{len(found)} simulated steady meshes, simulated over predicted price of joint plans"]
    for name, wanted in (("plain", False), ("with guesses", True)):
        ratios = sorted(ratio for ratio, guesses in found if guesses is wanted)
        if ratios:
            lines.append(
                f"  {name:14} {len(ratios)}: median {statistics.median(ratios):.3f}, "
                f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
            )
    return "\n".join(lines)


def without_stops(observation: Observation) -> Plan:
    """The joint plan with guesses always made up to their cap."""
    plan = joint_plan(observation)
    return replace(plan, batches=tuple(replace(batch, stops=()) for batch in plan.batches))


@dataclass(frozen=True, slots=True)
class StopOutcome:
    """Prices in one scenario of uneven tokens: with stops, without, plain."""

    stops_s: float
    no_stops_s: float
    plain_s: float
    num_guesses: int


def stop_outcome(seed: int, num_passes: int) -> StopOutcome:
    scenario = with_uneven_tokens(random_scenario(seed, num_passes))
    stops, no_stops, plain = (
        World(scenario, policy).run() for policy in (joint_plan, without_stops, POLICIES["ad"])
    )
    return StopOutcome(stops.price_s, no_stops.price_s, plain.price_s, stops.num_guesses)


def stop_report(outcomes: Sequence[StopOutcome]) -> str:
    """What it is worth that drafts stop where they are not sure."""
    guessing = [o for o in outcomes if o.num_guesses]
    gains = [o.no_stops_s / o.stops_s for o in guessing]
    to_plain = [o.plain_s / o.stops_s for o in outcomes]
    without = [o.plain_s / o.no_stops_s for o in outcomes]
    return "\n".join(
        [
            f"{len(outcomes)} simulated scenarios, tokens of uneven chances, acceptance learnt; "
            f"guesses in {len(guessing)}",
            f"without stops to with stops, where guesses are made: "
            f"mean {statistics.mean(gains):.3f}, least {min(gains):.3f}, most {max(gains):.3f}",
            f"with stops to plain decoding: mean {statistics.mean(to_plain):.3f}, "
            f"least {min(to_plain):.3f}",
            f"without stops to plain decoding: mean {statistics.mean(without):.3f}, "
            f"least {min(without):.3f}",
        ]
    )


def report(outcomes: Sequence[Outcome]) -> str:
    """The figures of a run as lines of text."""
    to_best = [outcome.to_best for outcome in outcomes]
    to_ad = [outcome.to_ad for outcome in outcomes]
    behind = sum(ratio < 0.97 for ratio in to_ad)
    lines = [
        f"{len(outcomes)} simulated scenarios; prices are mean seconds a token of each client",
        f"joint to the best of {len(COMPARED)} policies: mean {statistics.mean(to_best):.4f}, "
        f"median {statistics.median(to_best):.4f}, least {min(to_best):.3f}",
        f"joint to plain decoding: mean {statistics.mean(to_ad):.3f}, least {min(to_ad):.3f}; "
        f"more than 3 % behind in {behind}",
        f"worst-served client to the mean rate: least {min(o.worst_share for o in outcomes):.2f} "
        f"(plain decoding: {min(o.ad_worst_share for o in outcomes):.2f}); below 0.5 in "
        f"{sum(o.worst_share < 0.5 for o in outcomes)}",
        f"guesses were made in {sum(o.num_guesses > 0 for o in outcomes)}",
        "mean and least ratio to the best, by policy:",
    ]
    for name in COMPARED:
        ratios = [min(o.prices_s.values()) / o.prices_s[name] for o in outcomes]
        lines.append(f"  {name:24} {statistics.mean(ratios):.3f}  {min(ratios):.3f}")
    lines.append("joint with wrong beliefs, to joint that knows:")
    for name in BELIEFS:
        ratios = [o.prices_s["joint"] / o.believing_s[name] for o in outcomes]
        lines.append(f"  {name:28} mean {statistics.mean(ratios):.4f}  least {min(ratios):.3f}")
    return "\n".join(lines)


def save(outcomes: Sequence[Outcome], path: Path) -> None:
    """Keep every scenario's figures as JSON."""
    path.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
