"""`python -m bench`: measurements that take too long, or vary too much, to be tests."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any, Final
from urllib.request import getproxies

import click

from airdraft.nodes.catalog import CatalogError
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.service.local import NodeFailedError
from airdraft.nodes.service.runtime import set_engine_environment
from bench.harness.fleet import FleetError
from bench.netns import NamespacesError

set_engine_environment()
# A proxy does not reach gateways on this machine.
os.environ["no_proxy"] = f"127.0.0.1,::1,localhost,{getproxies().get('no', '')}"

# Modules and names of commands, which are imported only when they are asked for.
_COMMANDS: Final = {
    "agent": "bench.agent:agent_command",
    "benchmarks": "bench.results.command:benchmarks_command",
    "chaos": "bench.chaos.command:chaos",
    "clients": "bench.clients.command:clients_command",
    "distill": "bench.distill.commands:distill",
    "equal-cores": "bench.equal_cores.command:equal_cores_command",
    "forced": "bench.forced:forced_command",
    "hostile": "bench.hostile.port:hostile_command",
    "hostile-search": "bench.hostile.search:hostile_search_command",
    "kernels": "bench.kernels:kernels_command",
    "law1": "bench.law1:law1_command",
    "live": "bench.live.command:live",
    "pages": "bench.pages.command:pages_command",
    "portable": "bench.portable:portable_command",
    "record": "bench.emulate.record:record_command",
    "report": "bench.results.command:report_command",
    "rows": "bench.rows:rows_command",
    "split": "bench.split:split_command",
    "split-texts": "bench.split_texts:split_texts_command",
    "split-peers": "bench.split_peers:split_peers_command",
    "sim": "bench.sim.closed_loop:sim_command",
    "speed": "bench.speed:speed_command",
    "two-machines": "bench.hostile.two_machines:two_machines_command",
    "where": "bench.where.table:where_command",
    "wire": "bench.wire:wire_command",
}


# Errors whose text is a line for the user.
_ONE_LINE: Final = CatalogError, EngineError, FleetError, NamespacesError, NodeFailedError


class _Bench(click.Group):
    """Finds commands in their modules, and says in one line why something cannot be measured."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _ONE_LINE as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            says = "`pip install -e '.[distill]'` installs what the command distill needs"
            raise click.ClickException(f"{error.name} is not installed: {says}") from error


@click.group(cls=_Bench, context_settings={"show_default": True})
def bench() -> None:
    """Measure airdraft on this machine. Compare figures only within one run.

    \b
    Example:
      python -m bench speed --streams 1 --prompts 8
    """


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
