"""`python -m bench chaos disk|fds|clocks`: scarce or faulty resources."""

from __future__ import annotations

import asyncio

import click

from bench.harness.report import conclude


@click.command("fds")
@click.option("--coordinator-files", default=64, show_default=True)
@click.option("--gateway-files", default=128, show_default=True)
@click.option("--callers", default=200, show_default=True, help="Number of HTTP connections.")
@click.option("--seconds", default=6.0, show_default=True, help="Time without any free file.")
def fds(coordinator_files: int, gateway_files: int, callers: int, seconds: float) -> None:
    """Open many connections to a coordinator and a gateway that have few file descriptors.

    \b
    Example:
      python -m bench chaos fds --seconds 3
    """
    from bench.chaos.endurance.fds import coordinator_starved, gateway_starved

    conclude(
        asyncio.run(coordinator_starved(coordinator_files, seconds)),
        asyncio.run(gateway_starved(gateway_files, callers, seconds)),
    )


@click.command("disk")
@click.argument("scenes", nargs=-1, metavar="[full|read-only|stderr]...")
def disk(scenes: tuple[str, ...]) -> None:
    """Run a mesh whose state and log are on a disk that is full or read-only (needs root).

    \b
    Example:
      python -m bench chaos disk full
    """
    from bench.chaos.endurance.disk import NoDiskError, run_disk

    try:
        conclude(run_disk(*scenes))
    except NoDiskError as error:
        raise click.ClickException(str(error)) from error


@click.command("clocks")
def clocks() -> None:
    """Run a mesh with different monotonic clocks (needs root) and jumping wall clocks (needs cc).

    \b
    Example:
      python -m bench chaos clocks
    """
    from bench.chaos.endurance.clocks import (
        NoClocksError,
        jumping_wall_clocks,
        other_monotonic_clocks,
    )

    try:
        found = [asyncio.run(scene()) for scene in (other_monotonic_clocks, jumping_wall_clocks)]
    except NoClocksError as error:
        raise click.ClickException(str(error)) from error
    conclude(*found)


COMMANDS = (fds, disk, clocks)
