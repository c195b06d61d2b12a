"""Random simulated meshes with clients in a closed loop, under every mode of planning."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import click

from airdraft.nodes.scheduler.planning import MODES
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import Link
from bench.harness.report import head, note, row
from bench.options import at_least, names_option
from bench.sim.scenario import Scenario, SimClient, SimDraftNode
from bench.sim.world import World

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def table(first_s: float, knee: float, per_token: float) -> CostTable:
    """Returns a table in which a pass of t tokens takes first_s (1 + per_token max(0, t - knee)).

    A pass takes 0.2 % more for each token.
    """
    seconds = [first_s * (1.0 + per_token * max(0.0, size - knee)) for size in _SIZES]
    # Even in the flat part each token reads some more memory.
    return CostTable(
        _SIZES, tuple(s * (1.0 + 0.002 * t) for s, t in zip(seconds, _SIZES, strict=True))
    )


def node_costs(first_s: float, knee: float, per_token: float) -> NodeCosts:
    decode = table(first_s, knee, per_token)
    # Reading a prompt needs no logits and uses the device better.
    sizes = (32, 64, 256)
    seconds = (decode.at(32), max(decode.at(32), 0.8 * decode.at(64)))
    prefill = CostTable(sizes, (*seconds, max(seconds[-1], 0.6 * decode.at(256))))
    return NodeCosts(decode, prefill)


def random_scenario(seed: int, num_passes: int = 600) -> Scenario:
    """Draw a mesh that lasts as long as num_passes plain passes of all streams.

    Ranges: flat and steep verify tables, acceptance 0.3 to 0.95, rtt 1 to 120 ms (that of each node
    0.7 to 1.4 times as long), 1 to 32 streams, 1 to 4 draft nodes. Streams and draft nodes come and
    go.
    """
    random = Random(seed)
    num_clients = random.randint(1, 32)
    first_s = 10 ** random.uniform(-2.1, -1.0)
    is_flat = random.random() < 0.5
    knee = random.choice([1, 4, 16, 64]) if is_flat else 1
    target = node_costs(
        first_s, knee, random.uniform(0.005, 0.03) if is_flat else random.uniform(0.1, 0.6)
    )
    duration_s = num_passes * target.decode.at(num_clients)
    rtt_s = 10 ** random.uniform(-3.0, -0.92)
    medium = "cell" if random.random() < 0.4 else ""
    rate_bps = 10 ** random.uniform(5.0, 8.0)
    frame_s = 10 ** random.uniform(-4.0, -2.7)
    drafts = []
    for _ in range(random.randint(1, 4)):
        draft_s = first_s * 10 ** random.uniform(-1.5, -0.4)
        costs = node_costs(draft_s, random.choice([1, 4, 16]), random.uniform(0.01, 0.4))
        link = Link(rate_bps, rtt_s * random.uniform(0.7, 1.4), medium, frame_s)
        away = None
        if random.random() < 0.25:
            start = random.uniform(0.2, 0.6) * duration_s
            away = (start, start + random.uniform(0.1, 0.3) * duration_s)
        drafts.append(SimDraftNode(costs=costs, link=link, away=away))
    low = random.uniform(0.3, 0.9)
    high = random.uniform(low, 0.95)
    clients = []
    for _ in range(num_clients):
        alpha = random.uniform(low, high)
        # Later guesses are accepted a little less often, even if those before were accepted.
        fall = random.uniform(0.0, 0.02)
        alphas = tuple(max(0.05, alpha - fall * position) for position in range(8))
        length = random.randint(24, 160)
        clients.append(
            SimClient(
                alphas=alphas,
                num_prompt_tokens=random.randint(8, 128),
                max_tokens=(length, 2 * length),
                think_s=random.choice([0.0, 0.02, 0.1]) * duration_s,
                starts_at=random.uniform(0.0, 0.05) * duration_s,
                believed=alphas,
            )
        )
    return Scenario(
        seed=seed,
        target=target,
        drafts=tuple(drafts),
        clients=tuple(clients),
        duration_s=duration_s,
        warm_up_s=0.1 * duration_s,
    )


def with_acceptance_off_by(scenario: Scenario, error: float) -> Scenario:
    """Returns the scenario with believed acceptance too high or low by up to `error` per stream."""
    random = Random(scenario.seed + 1)

    def off(client: SimClient) -> SimClient:
        shift = random.uniform(-error, error)
        wrong = tuple(min(0.97, max(0.05, alpha + shift)) for alpha in client.alphas)
        return replace(client, believed=wrong)

    return replace(scenario, clients=tuple(map(off, scenario.clients)))


def with_draft_costs_off_by(scenario: Scenario, factor: float) -> Scenario:
    """Returns the scenario with believed draft costs `factor` times the true ones."""

    costs = (node.costs for node in scenario.drafts)
    believed = (NodeCosts(c.decode.scaled(factor), c.prefill.scaled(factor)) for c in costs)
    both = zip(scenario.drafts, believed, strict=True)
    return replace(scenario, drafts=tuple(replace(node, believed=b) for node, b in both))


def with_learnt_acceptance(scenario: Scenario, evenness: float | None = None) -> Scenario:
    """Returns the scenario without beliefs: acceptance is learnt from guesses alone. evenness: of
    all clients; if given, tokens have different chances, as in real drafts."""
    clients = (replace(c, believed=None, evenness=evenness) for c in scenario.clients)
    return replace(scenario, clients=tuple(clients))


# "auto" is the default of real meshes; each of the others forces one mode of planning.
COMPARED = ("auto", *(name for name in MODES if name != "auto"))
BELIEFS: dict[str, Callable[[Scenario], Scenario]] = {
    "acceptance learnt": with_learnt_acceptance,
    "acceptance off by up to 0.2": lambda s: with_acceptance_off_by(s, 0.2),
    "draft costs believed half": lambda s: with_draft_costs_off_by(s, 0.5),
    "draft costs believed double": lambda s: with_draft_costs_off_by(s, 2.0),
    "uneven tokens": lambda s: with_learnt_acceptance(s, evenness=1.0),
    "target 40 ms away": lambda s: replace(s, target_link=Link(rtt_s=0.04)),
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


def report(outcomes: Sequence[Outcome]) -> str:
    """Returns the figures of a run as tables. Means of ratios to auto are geometric."""
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
@at_least("--scenarios", 250, "Random scenarios.")
@click.option("--first-seed", default=0)
@at_least("--passes", 600, "Length of a scenario in passes.")
@at_least("--processes", 1)
@names_option("--modes", COMPARED, "Modes to run beside auto and plain.")
def sim_command(
    scenarios: int, first_seed: int, passes: int, processes: int, modes: list[str]
) -> None:
    """Simulate the live scheduler in random meshes.

    Each mesh runs in every mode of planning.

    \b
    Example:
      python -m bench sim --scenarios 10 --passes 300
    """
    seeds = range(first_seed, first_seed + scenarios)
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
