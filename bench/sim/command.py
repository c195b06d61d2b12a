"""`python -m bench sim|copies`: simulate meshes with the live scheduler."""

from __future__ import annotations

import click

from bench.harness.report import head, row
from bench.results.options import COUNTS, NUMBERS, listed


def _modes() -> tuple[str, ...]:
    from bench.sim.closed_loop import COMPARED

    return COMPARED


@click.command("sim")
@click.option("--scenarios", default=250, show_default=True, help="Random scenarios.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--passes", default=600, show_default=True, help="Length of a scenario in passes.")
@click.option("--processes", default=1, show_default=True)
@click.option(
    "--modes",
    type=listed(accepted=_modes),
    default="",
    help="Modes to run beside auto and plain. Default: every mode.",
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


@click.command("copies")
@click.option("--streams", type=COUNTS, default="1,2,4,8,16", show_default=True)
@click.option(
    "--rtts-ms",
    type=NUMBERS,
    default="0.3,3",
    show_default=True,
    help="Round-trip times to the target in ms.",
)
@click.option("--seeds", default=3, show_default=True, help="Texts of each kind.")
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


COMMANDS = (sim_command, copies_command)
