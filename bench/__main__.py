"""`python -m bench`: measurements that take too long, or vary too much, to be tests."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from typing import Any, Final

import click

from bench.harness.fleet import FleetError
from bench.harness.report import conclude, note
from bench.netns import NamespacesError
from nodes.catalog import CatalogError
from nodes.engine.protocol import EngineError
from nodes.service.local import NodeFailedError
from nodes.service.runtime import set_engine_environment

set_engine_environment()

# Modules and names of commands, which are imported only when they are asked for.
_COMMANDS: Final = {
    "benchmarks": "bench.results.command:benchmarks_command",
    "bound": "bench.bound:bound_command",
    "chaos": "bench.chaos.command:chaos",
    "clients": "bench.clients.command:clients_command",
    "copies": "bench.sim.copies:copies_command",
    "distill": "bench.distill.commands:distill",
    "edge": "bench.sim.edge:edge_command",
    "first": "bench.first:first_command",
    "kernels": "bench.kernels:kernels_command",
    "law1": "bench.law1:law1_command",
    "live": "bench.live.command:live",
    "memory": "bench.memory:memory_command",
    "pages": "bench.pages.command:pages_command",
    "paper": "bench.paper.report:paper_command",
    "peers": "bench.peers.command:peers_command",
    "portable": "bench.portable:portable_command",
    "portable-kernels": "bench.portable:portable_kernels_command",
    "record": "bench.emulate.record:record_command",
    "report": "bench.results.command:report_command",
    "sim": "bench.sim.closed_loop:sim_command",
    "speed": "bench.speed:speed_command",
    "where": "bench.where.table:where_command",
    "wire": "bench.wire:wire_command",
}


# Errors whose text is a line for the user.
_ONE_LINE: Final = CatalogError, EngineError, FleetError, NamespacesError, NodeFailedError


class _Bench(click.Group):
    """Finds commands in their modules, and says in one line why something cannot be measured."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _ONE_LINE as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Bench, context_settings={"show_default": True})
def bench() -> None:
    """Measure airdraft on this machine. Compare figures only within one run.

    \b
    Example:
      python -m bench speed --streams 1 --prompts 8
    """


@bench.command()
@click.option("--frames", default=10_000_000, help="Frames to decode.")
@click.option("--seed", default=1)
@click.option("--connections", default=100_000, help="Connections that send garbage to the port.")
@click.option("--unknown", "strangers", default=10_000, help="Messages from unknown keys.")
def hostile(frames: int, seed: int, connections: int, strangers: int) -> None:
    """Attack a coordinator as strangers or broken peers can.

    A count of 0 skips a part.

    \b
    Example:
      python -m bench hostile --frames 100000 --connections 1000
    """
    from bench.hostile import frames as decoder
    from bench.hostile import port

    if frames:
        click.echo(str(decoder.decode_hostile(frames, seed)))
    found = []
    if strangers:
        found.append(asyncio.run(port.unknown(strangers)))
    if connections:
        found.append(asyncio.run(port.garbage(connections)))
    conclude(*found)


@bench.command("hostile-requests")
@click.option("--schemas", default=200, help="Generated JSON schemas.")
def hostile_requests(schemas: int) -> None:
    """Send harmful requests to a mesh with limited memory.

    Each process has 4 GB of address space.

    \b
    Example:
      python -m bench hostile-requests --schemas 20
    """
    from bench.hostile.requests import run_hostile

    conclude(asyncio.run(run_hostile(schemas, note)))


@bench.command("two-machines")
@click.option("--airdraft", help="Command to test. Default: that of this installation.")
@click.option("--target", help="Target model. Default: that of the catalogue.")
@click.option("--draft", help="Draft model. Default: that of the catalogue.")
def two_machines(airdraft: str | None, target: str | None, draft: str | None) -> None:
    """Make a mesh of two network namespaces by invitation.

    The traffic between them is recorded and searched. This needs root.

    \b
    Example:
      python -m bench two-machines --airdraft /opt/airdraft/bin/airdraft
    """
    from bench.hostile.two_machines import mesh_by_invitation
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

    command = [airdraft] if airdraft else [sys.executable, "-m", "nodes.cli"]
    click.echo(mesh_by_invitation(command, target or DEFAULT_TARGET, draft or DEFAULT_DRAFT))


def _stop(*_: object) -> None:
    """Stop as Ctrl-C does. A second signal ends this process at once, and nodes that it started end
    when their standard input closes: asyncio would wait for tasks that wait for each other."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    # Shells start background jobs with SIGINT ignored. Restore it, and let SIGTERM act the same
    # way, so that the processes that a command started are stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _stop)
    bench()
