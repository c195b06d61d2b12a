"""`python -m bench chaos detect`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click


@click.command("detect")
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--over", default="tcp-keys,ipc", show_default=True, help="Also tcp, without keys.")
@click.option("--faults", default="killed,stopped,blocked", show_default=True)
@click.option("--who", default="members,coordinator", show_default=True)
@click.option("--away", default=0.0, show_default=True, help="Seconds from a kill to a new start.")
def detect(repeats: int, over: str, faults: str, who: str, away: float) -> None:
    """How soon dead members and a dead coordinator are noticed, and how soon they are back.

    \b
    Example:
      python -m bench chaos detect --repeats 3 --over ipc --faults killed
    """
    from bench.chaos import detect as detecting

    runs = {"members": detecting.detect_members, "coordinator": detecting.detect_coordinator}
    chosen = over.split(","), faults.split(","), who.split(",")
    for given, known in zip(chosen, (detecting.OVER, detecting.FAULTS, runs), strict=True):
        if unknown := set(given) - set(known):
            raise click.UsageError(f"{', '.join(sorted(unknown))}: {', '.join(known)} are accepted")
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
