"""`python -m bench`: measurements that take too long, or vary too much, to be tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from bench.chaos.command import chaos
from bench.clients.command import clients_command
from bench.commands import COMMANDS as PARTS
from bench.distill.commands import distill
from bench.gateway.command import gateway
from bench.live.command import live
from bench.pages.command import pages_command
from bench.paper.command import paper_command
from bench.peers.command import peers_command
from bench.results.command import COMMANDS as RESULTS
from bench.results.options import COUNTS
from bench.sim.command import COMMANDS as SIMULATED
from bench.where.command import where_command
from nodes.service.runtime import set_engine_environment

set_engine_environment()


@click.group()
def bench() -> None:
    """Measure airdraft on this machine. Compare figures only within one run.

    \b
    Example:
      python -m bench speed --streams 1 --prompts 8
    """


@bench.command()
@click.option("--frames", default=10_000_000, show_default=True, help="Frames to decode.")
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--connections",
    default=100_000,
    show_default=True,
    help="Connections that send garbage to the port.",
)
@click.option(
    "--unknown",
    "strangers",
    default=10_000,
    show_default=True,
    help="Messages from peers with unknown keys.",
)
@click.option("--peers", default=1_000, show_default=True, help="Peers, each with its own key.")
@click.option(
    "--seconds", default=10.0, show_default=True, help="Time with all peers connected, in seconds."
)
def hostile(
    frames: int, seed: int, connections: int, strangers: int, peers: int, seconds: float
) -> None:
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
    if peers:
        found.append(asyncio.run(port.crowd(peers, seconds)))
    conclude(*found)


@bench.command("kernels")
@click.option("--model", default="smollm2-135m", show_default=True, help="Name or path.")
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@click.option(
    "--cells",
    type=click.IntRange(16),
    default=256,
    show_default=True,
    help="Cache cells in use when a pass is timed.",
)
@click.option(
    "--tokens",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
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
@click.option("--schemas", default=200, show_default=True, help="Generated JSON schemas.")
def hostile_requests(schemas: int) -> None:
    """Send harmful requests to a mesh with limited memory.

    Each process has 4 GB of address space.

    \b
    Example:
      python -m bench hostile-requests --schemas 20
    """
    import asyncio

    from bench.harness.report import conclude, note
    from bench.hostile.requests import run_hostile

    conclude(asyncio.run(run_hostile(schemas, note)))


@bench.command("two-machines")
@click.option("--airdraft", default="", help="Command to test. Default: that of this installation.")
@click.option("--target", default="", help="Target model. Default: that of the catalogue.")
@click.option("--draft", default="", help="Draft model. Default: that of the catalogue.")
def two_machines(airdraft: str, target: str, draft: str) -> None:
    """Make a mesh of two network namespaces by invitation.

    The traffic between them is recorded and searched. This needs root.

    \b
    Example:
      python -m bench two-machines --airdraft /opt/airdraft/bin/airdraft
    """
    from bench.hostile.two_machines import mesh_by_invitation
    from bench.netns import NamespacesError
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

    command = [airdraft] if airdraft else [sys.executable, "-m", "nodes.cli"]
    try:
        click.echo(mesh_by_invitation(command, target or DEFAULT_TARGET, draft or DEFAULT_DRAFT))
    except NamespacesError as error:
        raise click.ClickException(str(error)) from error


@bench.command()
@click.option("--target", default="smollm2-135m", show_default=True, help="Name or path.")
@click.option(
    "--draft",
    "drafts",
    multiple=True,
    default=("smollm2-draft", "smollm2-135m-q4_0"),
    show_default=True,
    help="Name or path. Can be repeated.",
)
@click.option("--texts", type=click.IntRange(10, 250), default=80, show_default=True)
@click.option(
    "--workloads", default="", help="Record so many texts of each of these workloads instead."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=192,
    show_default=True,
    help="Largest length of a text in tokens.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def record(
    target: str,
    drafts: tuple[str, ...],
    texts: int,
    workloads: str,
    max_tokens: int,
    out: Path,
) -> None:
    """Record texts of a target and the guesses of its drafts.

    Nodes can replay the recording.

    \b
    Example:
      python -m bench record --out bench/emulate/recordings/smollm2-135m.json.z
    """
    from bench.emulate.record_command import prompts_of_workloads, prompts_to_record, record_models
    from bench.load.workloads import PLAIN_NAMES
    from nodes.catalog import CatalogError
    from nodes.engine.protocol import EngineError

    names = workloads.split(",") if workloads else []
    if unknown := set(names) - set(PLAIN_NAMES):
        raise click.UsageError(f"--workloads: unknown: {', '.join(sorted(unknown))}")
    prompts = prompts_of_workloads(names, texts) if names else prompts_to_record(texts)
    try:
        click.echo(record_models(target, drafts, out, prompts, max_tokens))
    except (CatalogError, EngineError, OSError) as error:
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
    from bench.portable import PortableError, run_portable

    try:
        text, is_equal = run_portable(arm_root)
    except PortableError as error:
        raise click.ClickException(str(error)) from error
    click.echo(text)
    sys.exit(0 if is_equal else 1)


@bench.command("portable-kernels")
@click.option("--arm-compiler", default="aarch64-linux-gnu-g++", show_default=True)
def portable_kernels(arm_compiler: str) -> None:
    """Check that kernels give the same bits on arm64.

    The kernels run on this CPU and on an arm64 CPU that QEMU emulates.

    \b
    Example:
      python -m bench portable-kernels
    """
    from bench.portable import PortableError, run_portable_kernels

    try:
        text, is_equal = run_portable_kernels(arm_compiler)
    except PortableError as error:
        raise click.ClickException(str(error)) from error
    click.echo(text)
    sys.exit(0 if is_equal else 1)


@bench.command()
def memory() -> None:
    """Compare the memory of nodes with their budgets.

    The resident memory of a target and a coordinator is measured.

    \b
    Example:
      python -m bench memory
    """
    from bench.memory import run_memory

    text, is_within = run_memory()
    click.echo(text)
    sys.exit(0 if is_within else 1)


bench.add_command(chaos)
bench.add_command(distill)
bench.add_command(live)
bench.add_command(gateway)
bench.add_command(paper_command, "paper")
bench.add_command(where_command)
bench.add_command(clients_command)
bench.add_command(pages_command)
for _command in (*PARTS, *SIMULATED, *RESULTS, peers_command):
    bench.add_command(_command)


@bench.command()
@click.option(
    "--streams", type=COUNTS, default="1,4,16", show_default=True, help="Streams of a pass."
)
@click.option("--gamma", default=4, show_default=True, type=click.IntRange(1, 16))
@click.option("--vocab", default=49_152, show_default=True, help="Tokens of the vocabulary.")
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
