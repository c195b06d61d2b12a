"""`python -m bench chaos detect`: measure how soon lost processes are noticed."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click


@click.command("detect")
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--over",
    default="tcp-keys,ipc",
    show_default=True,
    help="Transports, separated by commas; tcp (without keys) is also accepted.",
)
@click.option("--faults", default="killed,stopped,blocked", show_default=True)
@click.option(
    "--who", default="members,coordinator", show_default=True, help="Processes that suffer faults."
)
@click.option("--away", default=0.0, show_default=True, help="Seconds from a kill to a restart.")
def detect(repeats: int, over: str, faults: str, who: str, away: float) -> None:
    """Measure how soon a dead member or coordinator is noticed, and how soon it is back.

    \b
    Example:
      python -m bench chaos detect --repeats 3 --over ipc --faults killed
    """
    from bench.chaos import detect as detecting

    runs = {"members": detecting.detect_members, "coordinator": detecting.detect_coordinator}
    chosen = over.split(","), faults.split(","), who.split(",")
    for given, known in zip(chosen, (detecting.OVER, detecting.FAULTS, runs), strict=True):
        if unknown := set(given) - set(known):
            names = ", ".join(sorted(unknown))
            raise click.UsageError(f"unknown value {names!r}; accepted are {', '.join(known)}")
    is_good = True
    for link in chosen[0]:
        click.echo(f"{link}\n{detecting.HEAD}")
        for side in chosen[2]:
            with tempfile.TemporaryDirectory(prefix="airdraft-") as folder:
                found = asyncio.run(runs[side](link, Path(folder), chosen[1], repeats, away))
            is_good &= detecting.is_within_limits(found)
            for row in detecting.rows(found):
                click.echo(row)
    sys.exit(0 if is_good else 1)
