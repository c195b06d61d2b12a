"""`python -m bench chaos scarce`: a scene for each resource that is scarce or faulty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import click

from bench.chaos.endurance.clocks import run_clocks
from bench.chaos.endurance.disk import run_disk
from bench.chaos.endurance.fds import coordinator_starved, gateway_starved
from bench.harness.report import Findings, conclude
from bench.options import names_option

# Time without any free file.
_STARVED_S: Final = 6.0
_SCENES: Final[dict[str, Callable[[], Findings]]] = {
    **{name: partial(run_disk, name) for name in ("full", "read-only", "stderr")},
    "coordinator-files": lambda: asyncio.run(coordinator_starved(64, _STARVED_S)),
    "gateway-files": lambda: asyncio.run(gateway_starved(128, 200, _STARVED_S)),
    "clocks": lambda: asyncio.run(run_clocks()),
}


@click.command("scarce")
@names_option("--scenes", _SCENES, "What is scarce or faulty.")
def scarce_command(scenes: list[str]) -> None:
    """Run meshes whose disk, standard error, open files or clocks are scarce or faulty.

    State and log lie on a full or a read-only disk (needs root). Standard error takes nothing. A
    coordinator or a gateway gets more connections than it has files. Monotonic clocks differ by
    days (needs root) and wall clocks jump (needs cc).

    \b
    Example:
      python -m bench chaos scarce --scenes full,coordinator-files
    """
    conclude(*[_SCENES[name]() for name in scenes])
