"""`python -m bench split-peers`: a model on two machines, by airdraft and by llama.cpp's RPC.

Each way has a core for the machine that the user asks and one for the other, with the same delay
between them. Both are asked over HTTP, with the same prompts, in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import click

from airdraft.nodes.catalog.cuts import possible_cuts
from airdraft.nodes.catalog.stages import even_cuts
from bench.equal_cores.ways import served
from bench.harness.processes import free_port, stop
from bench.harness.up import up
from bench.load.asking import Endpoint
from bench.load.figures import Figures
from bench.load.versus import Load, Side, in_turns
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, listed, model_file, target_option, workloads_option
from bench.rows import stage_files
from bench.split import DelayingRelay, stage_on

_CELLS: Final = 4096
# Enough that no way is asked the same twice, since all of them keep what they have read.
_PROMPTS: Final = 60
_STOP_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Machines:
    """far, near: the CPUs of the machines. path, cut: the model, and the near machine's first block
    if it has the last ones. draft: a model's file. streams: requests at a time."""

    far: int
    near: int
    path: Path
    cut: int
    draft: Path
    streams: int

    @property
    def prefix(self) -> tuple[str, ...]:
        return "taskset", "--cpu-list", str(self.near)


@contextlib.contextmanager
def airdraft_side(name: str, options: Sequence[str], port: int, on: Machines) -> Iterator[Side]:
    words = (*("--model", str(on.path), "-t", "1", "--across", f"tcp://127.0.0.1:{port}"), *options)
    with up(*words, prefix=on.prefix) as mesh:
        yield Side(name, Endpoint(url=mesh.url, model=""), mesh.process.pid)


@contextlib.contextmanager
def rpc_server(binary: Path, cpu: int) -> Iterator[int]:
    """Runs llama.cpp's RPC server; yields its port."""
    port = free_port()
    command = ["taskset", "-c", str(cpu), str(binary), "--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*command, "--threads", "1"], stdout=quiet, stderr=quiet)
    try:
        yield port
    finally:
        stop(process, _STOP_LIMIT_S)


@contextlib.contextmanager
def llama_side(
    binary: Path, name: str, options: Sequence[str], port: int, on: Machines
) -> Iterator[Side]:
    """llama.cpp's server, whose far machine has as many blocks as airdraft's."""
    own = free_port()
    words = {
        "--model": on.path,
        "--host": "127.0.0.1",
        "--port": own,
        "--rpc": f"127.0.0.1:{port}",
        "--gpu-layers": on.cut,
        "--ctx-size": max(_CELLS, 1024 * on.streams),
        "--parallel": on.streams,
        "--threads": 1,
        "--threads-batch": 1,
    }
    flat = [str(word) for option in words.items() for word in option]
    command = [*on.prefix, str(binary), *flat, *options]
    with served(name, command, own, health="/health") as side:
        yield side


@click.command("split-peers")
@target_option
@click.option("--draft", required=True, help="Name or path of the draft model.")
@click.option("--rtt-ms", type=listed(float), default="0.2,5,20", help="Round trips.")
@click.option("--streams", type=listed(int), default="1", help="Requests at a time.")
@workloads_option(PLAIN_NAMES, "code,chat", "Prompts.")
@at_least("--turns", 2, "Turns of all ways.")
@at_least("--max-tokens", 64, "Most tokens of an answer.")
@click.option(
    "--llama-bin",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of llama-server and ggml-rpc-server, compiled here (bench/METHODOLOGY.md).",
)
def split_peers_command(
    target: str,
    draft: str,
    rtt_ms: Sequence[float],
    streams: Sequence[int],
    workloads: list[str],
    turns: int,
    max_tokens: int,
    llama_bin: Path | None,
) -> None:
    """Compare a model on two machines with llama.cpp's RPC backend. The link is emulated.

    \b
    Example:
      python -m bench split-peers --draft qwen2.5-coder-0.5b --llama-bin build/bin
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise click.ClickException("two cores are wanted, one for each machine")
    path = Path(model_file(target))
    (cut,) = even_cuts(path, 2)
    click.echo(f"{path.name}, {cut} of {possible_cuts(path)[1]} blocks on the other machine")
    click.echo("Processor time is that of the near machine.")
    click.echo("round trip | text | streams | way | tokens/s | first token, s | CPU, s/token")
    for count in streams:
        on = Machines(cpus[0], cpus[1], path, cut, Path(model_file(draft)), count)
        loads = [
            replace(workload(name, _PROMPTS + count), max_tokens=max_tokens) for name in workloads
        ]
        with contextlib.ExitStack() as stack:
            relays, sides = _started(stack, on, llama_bin)
            for trip in rtt_ms:
                for relay in relays:
                    relay.delay_s = trip / 2e3
                for name, load in zip(workloads, loads, strict=True):
                    found = asyncio.run(in_turns(sides, Load(load, count), turns))
                    for side, figures in zip(sides, zip(*found, strict=True), strict=True):
                        _tell(f"{trip:g} ms | {name} | {count} | {side.name}", figures)


def _started(
    stack: contextlib.ExitStack, on: Machines, llama_bin: Path | None
) -> tuple[list[DelayingRelay], list[Side]]:
    """Starts all ways, each with a process on the far machine behind a relay of its own."""
    relays, sides = list[DelayingRelay](), list[Side]()

    def relayed(port: int) -> int:
        relays.append(stack.enter_context(contextlib.closing(DelayingRelay(port))))
        return relays[-1].port

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (first, _), _ = stage_files(on.path, [on.cut], folder)
    draft = str(on.draft)
    for name, model in (("plain", "none"), ("draft", draft)):
        port = relayed(stack.enter_context(stage_on(on.far, first, 0)))
        options = ("-md", model, "--no-lookup")
        sides.append(stack.enter_context(airdraft_side(f"airdraft, {name}", options, port, on)))
    if llama_bin is not None:
        drafts = ("--spec-type", "draft-simple", "--model-draft", draft)
        for name, more in (("plain", ()), ("draft", drafts)):
            port = relayed(stack.enter_context(rpc_server(llama_bin / "ggml-rpc-server", on.far)))
            way = llama_side(llama_bin / "llama-server", f"llama.cpp, {name}", more, port, on)
            sides.append(stack.enter_context(way))
    return relays, sides


def _tell(label: str, figures: Sequence[Figures]) -> None:
    if errors := [each.error for each in figures if each.error]:
        raise click.ClickException(f"{label}: {errors[0]}")

    def middle(of: Callable[[Figures], float]) -> float:
        return median(map(of, figures))

    click.echo(
        f"{label} | {middle(lambda each: each.tokens_per_s):.1f} "
        f"| {middle(lambda each: each.first_token_s):.2f} "
        f"| {middle(lambda each: each.cpu_s_a_token):.3f}"
    )
