"""`python -m bench split`: times of a model in two stages, a core each, to the whole model's.

The stage is a process of its own behind a relay that delays what passes through it, in place of a
network: its times are emulated, those of the stages are measured. Both stages share one memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import click

from airdraft.nodes.catalog.cuts import possible_cuts
from airdraft.nodes.catalog.stages import embedding_of, even_cuts, layers_of
from airdraft.nodes.config.settings import TargetEngine
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import Model, Span
from airdraft.nodes.engine.split.embedding import Embedding
from airdraft.nodes.engine.split.last import SplitModel
from airdraft.nodes.service.across import machines_of
from airdraft.nodes.stage.asking import StageAddress
from airdraft.nodes.stage.links import StageLinks
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part
from airdraft.policies.layers import pass_s
from bench.harness.processes import free_port, stop
from bench.options import at_least, listed, model_file, target_option
from bench.rows import stage_files

# Tokens that each stream has before it is timed.
_CONTEXT: Final = 100
_PIECE: Final = 256
_STOP_LIMIT_S: Final = 10.0


class DelayingRelay:
    """Carries bytes between a port of loopback and another endpoint, each `delay_s` later.

    rate_bps: of each direction; infinite without a limit.
    """

    def __init__(self, to_port: int) -> None:
        self.port, self.delay_s, self._to_port = free_port(), 0.0, to_port
        self.rate_bps = math.inf
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_listening = threading.Event()
        self._thread.start()
        assert self._is_listening.wait(10)

    def _run(self) -> None:
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", self.port)
        )
        self._is_listening.set()
        self._loop.run_forever()
        server.close()

    async def _accept(self, near: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        far, onward = await asyncio.open_connection("127.0.0.1", self._to_port)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._carry(near, onward), self._carry(far, out))

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        free_at = 0.0
        while data := await source.read(1 << 20):
            free_at = max(free_at, self._loop.time()) + 8 * len(data) / self.rate_bps
            self._loop.call_at(free_at + self.delay_s, target.write, data)
        self._loop.call_later(self.delay_s, target.close)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@contextlib.contextmanager
def stage_on(cpu: int, file: Path, num_cells: int) -> Iterator[int]:
    """Runs a stage on a CPU; yields the port at which it listens."""
    port = free_port()
    options = f"--listen tcp://127.0.0.1:{port} -t 1 -c {num_cells}"
    words = [sys.executable, "-m", "airdraft", "stage", "-m", str(file), *options.split()]
    process = subprocess.Popen(["taskset", "-c", str(cpu), *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if b"listening" not in process.stdout.readline():
            raise click.ClickException("the stage did not start")
        yield port
    finally:
        stop(process, _STOP_LIMIT_S)


def pass_ms(model: Model, num_streams: int, num_tokens: int, num_turns: int) -> float:
    """Returns the median milliseconds of a pass with so many tokens of each stream."""
    texts = [drawn_ids(seq, _CONTEXT, model.info.num_vocab) for seq in range(num_streams)]
    for seq_id, text in enumerate(texts):
        model.forward([Span(seq_id, 0, text)])
    took = []
    for turn in range(num_turns):
        ids = drawn_ids(1000 + turn, num_tokens, model.info.num_vocab)
        began = time.perf_counter()
        model.forward([Span(seq, _CONTEXT, ids, num_tokens) for seq in range(num_streams)])
        took.append(time.perf_counter() - began)
        for seq_id in range(num_streams):
            model.truncate(seq_id, _CONTEXT)
    for seq_id in range(num_streams):
        model.truncate(seq_id, 0)
    return 1e3 * statistics.median(took)


def round_ms(model: SplitModel, num_streams: int, num_turns: int) -> float:
    """Returns the median milliseconds in which each stream has a token, in two groups in turns."""
    texts = [drawn_ids(seq, _CONTEXT, model.info.num_vocab) for seq in range(num_streams)]
    for seq_id, text in enumerate(texts):
        model.forward([Span(seq_id, 0, text)])
    half = num_streams // 2
    groups = [range(half), range(half, num_streams)]

    def begin(turn: int) -> None:
        # Both groups have a token of each turn.
        group, at = groups[turn % 2], _CONTEXT + turn // 2
        model.begin([Span(seq_id, at, [7], 1) for seq_id in group])

    begin(0)
    ended = []
    for turn in range(1, 2 * num_turns):
        begin(turn)
        model.finish()
        ended.append(time.perf_counter())
    model.finish()
    for seq_id in range(num_streams):
        model.truncate(seq_id, 0)
    return 2e3 * statistics.median(b - a for a, b in pairwise(ended))


def reading_s(model: Model, num_tokens: int) -> float:
    """Returns the seconds until a prompt is read and its first token decided."""
    ids = drawn_ids(7, num_tokens, model.info.num_vocab)
    began = time.perf_counter()
    for start in range(0, num_tokens, _PIECE):
        piece = ids[start : start + _PIECE]
        model.forward([Span(0, start, piece, int(start + len(piece) == num_tokens))])
    model.truncate(0, 0)
    return time.perf_counter() - began


@click.command("split")
@target_option
@click.option("--cut", type=int, help="First block of the last stage.  [default: equal machines]")
@click.option("--rtt-ms", type=listed(float), default="0.2,5,20", help="Round trips to the stage.")
@click.option("--sizes", type=listed(int), default="1,2,4,8,16", help="Tokens of a stream's pass.")
@click.option("--streams", type=listed(int), default="1,4,16", help="Streams of a pass.")
@at_least("--turns", 12, "Passes of each kind.")
@at_least("--prompt", 2000, "Tokens of the prompt that is read.")
def split_command(
    target: str,
    cut: int | None,
    rtt_ms: Sequence[float],
    sizes: Sequence[int],
    streams: Sequence[int],
    turns: int,
    prompt: int,
) -> None:
    """Time passes and prompts of a model in two stages, to the whole model on one core.

    \b
    Example:
      python -m bench split --target qwen2.5-coder-1.5b
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise click.ClickException("two cores are wanted, one for each stage")
    path = Path(model_file(target))
    num_cells = max(prompt, max(streams) * (_CONTEXT + max(sizes)))
    config = LlamaConfig(path=path, num_cells=num_cells, max_sequences=max(streams))
    os.sched_setaffinity(0, {cpus[1]})
    kinds = [(n, size) for n in streams for size in sizes if n * size <= config.max_batch_tokens]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (cut,) = [cut] if cut else even_cuts(path, 2)
        files, model_hash = stage_files(path, [cut], folder)
        with contextlib.closing(LlamaModel(config, model_hash=model_hash)) as whole:
            plain = {kind: pass_ms(whole, *kind, turns) for kind in kinds}
            read = reading_s(whole, prompt)
        port = stack.enter_context(stage_on(cpus[0], files[0], num_cells))
        relay = stack.enter_context(contextlib.closing(DelayingRelay(port)))
        endpoint = f"tcp://127.0.0.1:{relay.port}"
        address = StageAddress(endpoint, None, endpoint)
        part = Part(model_hash, files[0].name, 0, cut)
        settings = TargetEngine(model=str(path), threads=1)
        machines = machines_of(path, model_hash, settings, [address], 20.0, folder)
        first, second = machines.values()
        links = StageLinks([part], lambda _: [address], 20.0, PartFiles(None, lambda *_: None))
        last = replace(config, path=files[1])
        embedding = Embedding(embedding_of(files[1]))
        model = SplitModel(last, links, embedding, model_hash=model_hash)
        stack.enter_context(contextlib.closing(model))
        layers = layers_of(path)
        click.echo(f"{path.name}, cut at block {cut} of {possible_cuts(path)[1]}")
        click.echo(
            "round trip | streams | tokens a pass | whole, ms | stages, ms | ratio | "
            "stages as predicted, ms"
        )
        for trip in rtt_ms:
            relay.delay_s = trip / 2e3
            first = replace(first, rtt_s=trip / 1e3)
            for kind in kinds:
                took = pass_ms(model, *kind, turns)
                told = f"{plain[kind]:.1f} | {took:.1f} | {took / plain[kind]:.2f}"
                expected = 1e3 * pass_s(layers, [first, second], [cut], math.prod(kind))
                click.echo(f"{trip:g} ms | {kind[0]} | {kind[1]} | {told} | {expected:.1f}")
                if kind[0] > 1 and kind[1] == 1:
                    took = round_ms(model, kind[0], turns)
                    told = f"{plain[kind]:.1f} | {took:.1f} | {took / plain[kind]:.2f}"
                    click.echo(f"{trip:g} ms | {kind[0]} in two groups | 1 | {told}")
            took = reading_s(model, prompt)
            told = f"{read:.2f} | {took:.2f} | {took / read:.2f}"
            click.echo(f"{trip:g} ms | a prompt of {prompt:,} tokens, s | {told}")
