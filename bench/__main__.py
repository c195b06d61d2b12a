"""`python -m bench`: measurements that take too long, or vary too much, to be tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from bench.chaos.command import chaos
from bench.clients.command import clients_command
from bench.commands import COMMANDS as PARTS
from bench.distill.commands import distill
from bench.harness.fleet import FleetError
from bench.harness.report import conclude, note
from bench.live.command import live
from bench.load.workloads import PLAIN_NAMES
from bench.netns import NamespacesError
from bench.pages.command import pages_command
from bench.paper.command import paper_command
from bench.peers.command import peers_command
from bench.results.command import COMMANDS as RESULTS
from bench.results.options import COUNTS, listed
from bench.sim.command import COMMANDS as SIMULATED
from bench.where.command import where_command
from nodes.catalog import CatalogError
from nodes.engine.protocol import EngineError
from nodes.service.runtime import set_engine_environment

set_engine_environment()


class _Bench(click.Group):
    """Says in one line why something cannot be measured here."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (CatalogError, EngineError, FleetError, NamespacesError) as error:
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
@click.option(
    "--unknown",
    "strangers",
    default=10_000,
    help="Messages from peers with unknown keys.",
)
def hostile(frames: int, seed: int, connections: int, strangers: int) -> None:
    """Attack a coordinator as strangers or broken peers can.

    A count of 0 skips a part.

    \b
    Example:
      python -m bench hostile --frames 100000 --connections 1000
    """
    import asyncio

    from bench.harness.report import conclude
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


@bench.command("kernels")
@click.option("--model", default="smollm2-135m", help="Name or path.")
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2))
@click.option(
    "--cells",
    type=click.IntRange(16),
    default=256,
    help="Cache cells in use when a pass is timed.",
)
@click.option(
    "--tokens",
    type=click.IntRange(0),
    default=2000,
    help="Tokens of the text whose perplexity is compared; 0 skips the comparison.",
)
def kernels_command(model: str, threads: tuple[int, ...], cells: int, tokens: int) -> None:
    """Compare airdraft's kernels with stock llama.cpp.

    The tables show times of passes, and how far predictions differ.

    \b
    Example:
      python -m bench kernels --model qwen2.5-coder-1.5b --tokens 20000
    """
    from bench.kernels import Asked, compare
    from nodes.catalog import Catalog, default_cache_dir
    from nodes.config.settings import environment

    path = Catalog(default_cache_dir(environment())).ensure(model)
    for index, num_threads in enumerate(threads):
        # Predictions do not depend on the number of threads, so they are compared once.
        asked = Asked(path, num_threads, cells, 0 if index else tokens)
        click.echo(f"{num_threads} thread(s), {cells} cells:")
        click.echo(compare(asked, lambda line: click.echo(line, err=True)))


@bench.command("hostile-requests")
@click.option("--schemas", default=200, help="Generated JSON schemas.")
def hostile_requests(schemas: int) -> None:
    """Send harmful requests to a mesh with limited memory.

    Each process has 4 GB of address space.

    \b
    Example:
      python -m bench hostile-requests --schemas 20
    """
    import asyncio

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


@bench.command()
@click.option("--target", default="smollm2-135m", help="Name or path.")
@click.option(
    "--draft",
    "drafts",
    multiple=True,
    default=("smollm2-draft", "smollm2-135m-q4_0"),
    help="Name or path. Can be repeated.",
)
@click.option("--texts", type=click.IntRange(10, 250), default=80)
@click.option(
    "--workloads",
    "kinds",
    type=listed(accepted=lambda: PLAIN_NAMES),
    default="",
    show_default="none",
    help="Record so many texts of each of these workloads instead.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=192,
    help="Largest length of a text in tokens.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def record(kinds: list[str], texts: int, **options: Any) -> None:
    """Record texts of a target and the guesses of its drafts.

    Nodes can replay the recording.

    \b
    Example:
      python -m bench record --out bench/emulate/recordings/smollm2-135m.json.z
    """
    from bench.emulate.record_command import prompts_of_workloads, prompts_to_record, record_models

    prompts = prompts_of_workloads(kinds, texts) if kinds else prompts_to_record(texts)
    try:
        click.echo(record_models(prompts=prompts, **options))
    except OSError as error:
        raise click.ClickException(str(error)) from error


@bench.command()
@click.option(
    "--arm-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with an arm64 Python and numpy; CONTRIBUTING.md describes how to make it.",
)
def portable(arm_root: Path | None) -> None:
    """Check that sampling gives the same bits on other CPUs.

    QEMU emulates the CPUs.

    \b
    Example:
      python -m bench portable
    """
    from bench.portable import run_portable

    conclude(run_portable(arm_root))


@bench.command("portable-kernels")
@click.option("--arm-compiler", default="aarch64-linux-gnu-g++")
def portable_kernels(arm_compiler: str) -> None:
    """Check that kernels give the same bits on arm64.

    The kernels run on this CPU and on an arm64 CPU that QEMU emulates.

    \b
    Example:
      python -m bench portable-kernels
    """
    from bench.portable import run_portable_kernels

    conclude(run_portable_kernels(arm_compiler))


@bench.command()
def memory() -> None:
    """Compare the memory of nodes with their budgets.

    The resident memory of a target and a coordinator is measured.

    \b
    Example:
      python -m bench memory
    """
    from bench.memory import run_memory

    conclude(run_memory())


for _command in (
    *(chaos, distill, live, paper_command, where_command, clients_command, pages_command),
    *(*PARTS, *SIMULATED, *RESULTS, peers_command),
):
    bench.add_command(_command)


@bench.command()
@click.option("--streams", type=COUNTS, default="1,4,16", help="Streams of a pass.")
@click.option("--gamma", default=4, type=click.IntRange(1, 16))
@click.option("--vocab", default=49_152, help="Tokens of the vocabulary.")
def wire(streams: list[int], gamma: int, vocab: int) -> None:
    """Count the bytes that a pass sends over links.

    The table shows them with ZeroMQ and CURVE, for each guess and each committed token.

    \b
    Example:
      python -m bench wire --streams 16
    """
    import asyncio

    from bench.wire import measure, table

    click.echo(table(asyncio.run(measure(streams, gamma, vocab)), vocab))


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
