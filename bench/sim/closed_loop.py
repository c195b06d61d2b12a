"""Random simulated meshes with clients in a closed loop, under every mode of planning."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import click

from bench.harness.report import head, note, row
from bench.options import names_option
from bench.sim.random_scenarios import (
    random_scenario,
    steady,
    with_acceptance_off_by,
    with_draft_costs_off_by,
    with_learnt_acceptance,
    with_uneven_tokens,
)
from bench.sim.scenario import Scenario
from bench.sim.world import World
from nodes.scheduler.planning import MODES

# "auto" is the default of real meshes; each of the others forces one mode of planning.
COMPARED = ("auto", *(name for name in MODES if name != "auto"))
# One-way delay of a distant target's messages.
_FAR_S = 0.02
BELIEFS: dict[str, Callable[[Scenario], Scenario]] = {
    "acceptance learnt": with_learnt_acceptance,
    "acceptance off by up to 0.2": lambda s: with_acceptance_off_by(s, 0.2),
    "draft costs believed half": lambda s: with_draft_costs_off_by(s, 0.5),
    "draft costs believed double": lambda s: with_draft_costs_off_by(s, 2.0),
    "uneven tokens": with_uneven_tokens,
    "target 40 ms away": lambda s: replace(s, target_delay_s=_FAR_S),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario. prices_s: seconds a token by mode. believing_s: seconds a token of "auto" and
    of plain decoding, by the belief in BELIEFS."""

    seed: int
    num_clients: int
    num_drafts: int
    prices_s: dict[str, float]
    believing_s: dict[str, tuple[float, float]]
    worst_share: float
    plain_worst_share: float
    num_guesses: int

    @property
    def to_best(self) -> float:
        return min(self.prices_s.values()) / self.prices_s["auto"]

    @property
    def to_plain(self) -> float:
        return self.prices_s["plain"] / self.prices_s["auto"]


def run_seed(seed: int, num_passes: int, modes: Sequence[str] = COMPARED) -> Outcome:
    """Run some modes on one random scenario, auto and plain always.

    If all modes run, auto and plain also run with each of BELIEFS.
    """
    scenario = random_scenario(seed, num_passes)
    names = dict.fromkeys(("auto", "plain", *modes))
    results = {name: World(scenario, MODES[name]).run() for name in names}
    auto = results["auto"]
    beliefs = BELIEFS if modes == COMPARED else {}
    believing = {name: _beside_plain(change(scenario)) for name, change in beliefs.items()}
    return Outcome(
        seed,
        len(scenario.clients),
        len(scenario.drafts),
        {name: result.price_s for name, result in results.items()},
        believing,
        auto.worst_share,
        results["plain"].worst_share,
        auto.num_guesses,
    )


def _beside_plain(scenario: Scenario) -> tuple[float, float]:
    auto, plain = (World(scenario, MODES[name]).run().price_s for name in ("auto", "plain"))
    return auto, plain


def steady_report(seeds: Sequence[int], num_passes: int) -> str:
    """Return how close simulated prices are to predictions if no stream or node comes or goes."""
    worlds = (World(steady(random_scenario(seed, num_passes))) for seed in seeds)
    results = [world.run() for world in worlds]
    lines = [f"{len(results)} simulated steady meshes, simulated over predicted price"]
    for name, wanted in (("plain", False), ("with guesses", True)):
        ratios = sorted(r.promised for r in results if r.promised and (r.num_guesses > 0) is wanted)
        if ratios:
            lines.append(
                f"  {name:14} {len(ratios)}: median {statistics.median(ratios):.3f}, "
                f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
            )
    return "\n".join(lines)


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the figures of a run as tables. Means of ratios to auto are geometric."""
    lines = [
        f"{len(outcomes)} simulated scenarios; prices are mean seconds a token of each client",
        f"auto is more than 3 % slower than plain decoding in "
        f"{sum(o.to_plain < 0.97 for o in outcomes)} scenarios; guesses were made in "
        f"{sum(o.num_guesses > 0 for o in outcomes)} scenarios",
        "rate of the worst-served client over the mean rate: least "
        f"{min(o.worst_share for o in outcomes):.2f} (plain decoding: "
        f"{min(o.plain_worst_share for o in outcomes):.2f}); below 0.5 in "
        f"{sum(o.worst_share < 0.5 for o in outcomes)} scenarios",
        head("mode", "to the best, mean (least)", "auto relative to it, mean (least to most)"),
    ]
    for name in outcomes[0].prices_s:
        ratios = [min(o.prices_s.values()) / o.prices_s[name] for o in outcomes]
        auto = [o.prices_s[name] / o.prices_s["auto"] for o in outcomes]
        shown = f"{statistics.geometric_mean(auto):.3f} ({min(auto):.3f} to {max(auto):.3f})"
        lines.append(row(name, f"{statistics.mean(ratios):.4f} ({min(ratios):.3f})", shown))
    if outcomes[0].believing_s:
        lines.append(head("auto with other beliefs", "to true ones, mean (least)", "to plain"))
    for name in outcomes[0].believing_s:
        known = [o.prices_s["auto"] / o.believing_s[name][0] for o in outcomes]
        plain = [o.believing_s[name][1] / o.believing_s[name][0] for o in outcomes]
        means = ((statistics.geometric_mean(ratios), min(ratios)) for ratios in (known, plain))
        lines.append(row(name, *(f"{mean:.3f} ({least:.3f})" for mean, least in means)))
    return "\n".join(lines)


@click.command("sim")
@click.option("--scenarios", default=250, help="Random scenarios.")
@click.option("--first-seed", default=0)
@click.option("--passes", default=600, help="Length of a scenario in passes.")
@click.option("--processes", default=1)
@names_option("--modes", COMPARED, "Modes to run beside auto and plain.")
@click.option("--steady", "is_steady", is_flag=True, help="Compare prices with predictions only.")
def sim_command(
    scenarios: int, first_seed: int, passes: int, processes: int, modes: list[str], is_steady: bool
) -> None:
    """Simulate the live scheduler in random meshes.

    Each mesh runs in every mode of planning. With --steady no stream or node comes or goes, and
    simulated prices are compared with predicted ones.

    \b
    Example:
      python -m bench sim --scenarios 10 --passes 300
    """
    seeds = range(first_seed, first_seed + scenarios)
    if is_steady:
        click.echo(steady_report(seeds, passes))
        return
    outcomes = []
    run = partial(run_seed, num_passes=passes, modes=tuple(modes))
    with ProcessPoolExecutor(processes) as pool:
        for outcome in pool.map(run, seeds):
            outcomes.append(outcome)
            note(
                f"seed {outcome.seed}: {outcome.num_clients} clients, {outcome.num_drafts} draft "
                f"nodes, auto to the best {outcome.to_best:.3f}, to plain {outcome.to_plain:.3f}"
            )
    click.echo(report(outcomes))
