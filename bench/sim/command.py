"""`python -m bench sim|steady|edge|copies`: simulate meshes with the live scheduler."""

from __future__ import annotations

from typing import Any

import click

from bench.harness.report import head, row
from bench.live.command import edge_options, edge_settings
from bench.results.options import COUNTS, NUMBERS, listed
from nodes.scheduler.planning import MODES


@click.command("sim")
@click.option("--scenarios", default=250, help="Random scenarios.")
@click.option("--first-seed", default=0)
@click.option("--passes", default=600, help="Length of a scenario in passes.")
@click.option("--processes", default=1)
@click.option(
    "--modes",
    type=listed(accepted=lambda: MODES),
    default="",
    show_default="all",
    help="Modes to run beside auto and plain.",
)
def sim_command(
    scenarios: int, first_seed: int, passes: int, processes: int, modes: list[str]
) -> None:
    """Simulate the live scheduler in random meshes.

    Each mesh runs in every mode of planning.

    \b
    Example:
      python -m bench sim --scenarios 10 --passes 300
    """
    from bench.sim.closed_loop import COMPARED, report, run_many

    wanted = tuple(modes) or COMPARED
    outcomes = []
    seeds = range(first_seed, first_seed + scenarios)
    for outcome in run_many(seeds, passes, processes, wanted):
        outcomes.append(outcome)
        click.echo(
            f"seed {outcome.seed}: {outcome.num_clients} clients, {outcome.num_drafts} draft "
            f"nodes, auto to the best {outcome.to_best:.3f}, to plain {outcome.to_plain:.3f}",
            err=True,
        )
    click.echo(report(outcomes))


@click.command("steady")
@click.option("--scenarios", default=100, help="Random scenarios.")
@click.option("--passes", default=400, help="Length of a scenario in passes.")
def steady_command(scenarios: int, passes: int) -> None:
    """Compare predicted and simulated prices.

    In these simulated meshes no stream or node comes or goes.

    \b
    Example:
      python -m bench steady --scenarios 20
    """
    from bench.sim.closed_loop import steady_report

    click.echo(steady_report(range(scenarios), passes))


@click.command("edge")
@edge_options
@click.option("--seconds", default=32.0, help="Virtual seconds of each policy's turn.")
@click.option("--turns", default=3, help="Turns of each policy, each with other texts.")
@click.option("--processes", default=1)
def edge_command(
    policies: list[str], seconds: float, turns: int, processes: int, **cells: Any
) -> None:
    """Simulate the cell of `live edge` in virtual time.

    Nodes and air are simulated, and texts are recorded.

    \b
    Example:
      python -m bench edge --rates-kbps 2000 --alphas 0.8 --policies plain,auto
    """
    from bench.live.edge_report import SIMULATED_HEAD, simulated_row_of, standing
    from bench.sim.edge import run_edge

    settings = edge_settings(**cells, seconds=seconds)
    where = ", the target on it" if cells["target_on_air"] else ""
    click.echo(f"simulated devices, simulated air{where}\n{SIMULATED_HEAD}")
    found = {}
    for setting, by_policy in run_edge(settings, policies, turns, processes):
        found[setting] = by_policy
        for policy in policies:
            click.echo(simulated_row_of(setting, policy, by_policy))
    click.echo("\n".join(standing(found)))


@click.command("copies")
@click.option("--streams", type=COUNTS, default="1,2,4,8,16")
@click.option(
    "--rtts-ms",
    type=NUMBERS,
    default="0.3,3",
    help="Round-trip times to the target in ms.",
)
@click.option("--seeds", default=3, help="Texts of each kind.")
def copies_command(streams: list[int], rtts_ms: list[float], seeds: int) -> None:
    """Simulate the gain of lookup on repetitive texts.

    \b
    Example:
      python -m bench copies --streams 1,16 --seeds 2
    """
    from bench.sim.copies import TABLES, TEXTS, Copies, gain

    click.echo(head("passes", "rtt, ms", "text", *(f"{count} streams" for count in streams)))
    for table in TABLES:
        for rtt_ms in rtts_ms:
            for text in TEXTS:
                gains = [
                    gain(
                        Copies(table=table, text=text, num_streams=count, rtt_s=rtt_ms / 1e3),
                        range(1, seeds + 1),
                    )
                    for count in streams
                ]
                click.echo(row(table, f"{rtt_ms:g}", text, *(f"{each:.2f}" for each in gains)))


COMMANDS = (sim_command, steady_command, edge_command, copies_command)
