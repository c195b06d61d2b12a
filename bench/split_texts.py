"""`python -m bench split-texts`: tokens a second of a model in two stages, with guesses or without.

Target and stage are real, with a core each. The link between them is a relay that delays bytes, and
the draft node is emulated: it has the guesses that the draft model was recorded to make, and makes
each after a fixed time, as if on a device of its own beside the target.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Final

import click

from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.catalog.stages import even_cuts
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig, TargetEngine
from airdraft.nodes.draft.node import DraftNode
from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.messages import TokensNotice
from airdraft.nodes.service.local import local_mesh
from airdraft.policies.acceptance import CALIBRATION_KEY, DraftCalibration
from airdraft.policies.latency import CostTable, NodeCosts
from bench.emulate.record import add_guesses, record_texts
from bench.emulate.recording import RecordedModel, RecordedText, Recording
from bench.emulate.replay import ReplayConfig, ReplayModel
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, listed, model_file, target_option, workloads_option
from bench.rows import stage_files
from bench.split import DelayingRelay, stage_on

# A prompt is read at this many of the times of a guess for each token.
_READ: Final = 0.1
_CELLS: Final = 8192
_LIMIT_S: Final = 60.0


def recorded(target: Path, draft: Path, name: str, count: int, most: int) -> tuple[Recording, str]:
    """Returns greedy texts of the whole target with the draft's guesses, and the hash of their
    vocabulary. Token ids are the models' own."""
    prompts = [(name, text) for text in dict.fromkeys(workload(name, count).prompts)]
    with contextlib.closing(LlamaModel(_config(target))) as model:
        texts = record_texts(model, model.vocabulary, prompts[:count], most, lambda *_: None)
        info, ends = model.info, sorted(model.info.eog_token_ids)
    with contextlib.closing(LlamaModel(replace(_config(draft), profile="fast"))) as model:
        texts = add_guesses(model, texts, lambda *_: None)
        calibration = model.metadata(CALIBRATION_KEY)
    models = RecordedModel(target.stem, ""), (RecordedModel(draft.stem, "", calibration),)
    recording = Recording(*models, (b"",) * info.num_vocab, tuple(ends), tuple(texts))
    return recording, info.vocab_hash


def _config(path: Path) -> LlamaConfig:
    return LlamaConfig(path=path, num_cells=_CELLS, max_sequences=1, num_threads=2)


@contextlib.asynccontextmanager
async def emulated_draft(
    endpoint: str, recording: Recording, vocab_hash: str, guess_s: float
) -> AsyncIterator[None]:
    """Runs a draft node that makes the recorded guesses, one in `guess_s`."""
    decode = CostTable((1, 16), (guess_s, 1.2 * guess_s))
    costs = NodeCosts(decode, CostTable((1, 256), (guess_s, 256 * _READ * guess_s)))
    name = recording.drafts[0].name
    model = ReplayModel(
        ReplayConfig(name=name, recording=recording, costs=costs, draft=name, max_sequences=32)
    )
    model.info = replace(model.info, vocab_hash=vocab_hash)
    text = model.metadata(CALIBRATION_KEY)
    calibration = DraftCalibration.from_json(text) if text else DraftCalibration()
    grammars = Grammars(lambda _: b"", model.info.num_vocab, model.info.eog_token_ids)
    with ZmqContext() as context:
        state = DraftState(model, calibration, grammars, None)
        link = context.connect(endpoint)
        node = DraftNode(link, state, model.info, costs, endpoint=endpoint, node="draft")
        running = asyncio.create_task(node.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def tokens_per_s(
    client: MeshClient, texts: Sequence[RecordedText], num_streams: int, gamma: int | None
) -> float:
    """Returns the tokens a second of all streams together, with the reading of their prompts.

    Each stream asks for the next text when it has one. Raises ClickException for a wrong text.
    """
    waiting = iter(texts)
    num_tokens = 0

    async def ask(text: RecordedText) -> None:
        nonlocal num_tokens
        found = list[int]()
        options = GenerateOptions(max_tokens=len(text.output_ids), gamma=gamma)
        async for event in client.generate(text.prompt, options):
            if isinstance(event, TokensNotice):
                found += event.token_ids
        # The token that ends a text is not shown.
        if tuple(found) not in (text.output_ids, text.output_ids[:-1]):
            raise click.ClickException(f"{text.prompt[:40]!r}: not the whole model's text")
        num_tokens += len(found)

    async def stream() -> None:
        for text in waiting:
            await ask(text)

    began = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(num_streams)))
    return num_tokens / (time.perf_counter() - began)


@contextlib.contextmanager
def two_stages(path: Path, cut: int) -> Iterator[tuple[Path, DelayingRelay]]:
    """Runs the first stage on the first core; yields the last one's file, and the relay to it."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise click.ClickException("two cores are wanted, one for each stage")
    os.sched_setaffinity(0, {cpus[1]})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (first, last), _ = stage_files(path, [cut], folder)
        port = stack.enter_context(stage_on(cpus[0], first, 0))
        yield last, stack.enter_context(contextlib.closing(DelayingRelay(port)))


@click.command("split-texts")
@target_option
@click.option("--draft", required=True, help="Name or path of the model whose guesses are taken.")
@click.option("--cut", type=int, help="First block of the last stage.  [default: equal machines]")
@click.option("--rtt-ms", type=listed(float), default="0.2,5,20", help="Round trips to the stage.")
@click.option("--rate-mbit", type=float, default=0.0, help="Rate of the link; 0 for no limit.")
@click.option("--guess-ms", type=listed(float), default="16,4", help="Times of a guess.")
@click.option("--streams", type=listed(int), default="1", help="Streams at a time.")
@workloads_option(PLAIN_NAMES, "code,chat", "Prompts.")
@at_least("--texts", 6, "Texts of each kind.")
@at_least("--max-tokens", 96, "Largest length of a text.")
@at_least("--turns", 2, "Times that all is measured.")
def split_texts_command(
    target: str,
    draft: str,
    cut: int | None,
    rtt_ms: Sequence[float],
    rate_mbit: float,
    guess_ms: Sequence[float],
    streams: Sequence[int],
    workloads: list[str],
    texts: int,
    max_tokens: int,
    turns: int,
) -> None:
    """Measure a model in two stages with the guesses of an emulated draft node, to plain decoding.

    \b
    Example:
      python -m bench split-texts --target qwen2.5-coder-1.5b --draft qwen2.5-coder-0.5b
    """
    path, draft_path = Path(model_file(target)), Path(model_file(draft))
    (cut,) = [cut] if cut else even_cuts(path, 2)
    click.echo("The link and the draft node are emulated; both stages share one memory.")
    click.echo("round trip | text | streams | plain, tokens/s | a guess in | tokens/s | ratio")
    made = [(name, recorded(path, draft_path, name, texts, max_tokens)) for name in workloads]
    with two_stages(path, cut) as (last, relay):
        if rate_mbit:
            relay.rate_bps = 1e6 * rate_mbit
        for trip in rtt_ms:
            relay.delay_s = trip / 2e3
            ways = itertools.product(made, streams)
            asyncio.run(_measured(last, relay.port, trip, list(ways), guess_ms, turns))


async def _measured(
    last: Path,
    port: int,
    trip: float,
    ways: Sequence[tuple[tuple[str, tuple[Recording, str]], int]],
    guess_ms: Sequence[float],
    num_turns: int,
) -> None:
    engine = TargetEngine(
        model=str(last), across=f"tcp://127.0.0.1:{port}", threads=1, max_streams=16
    )
    config = CoordinatorConfig(prompt_lookup=False)
    with tempfile.TemporaryDirectory() as folder:
        local = local_mesh(engine, None, listen=f"ipc://{folder}/mesh", config=config)
        async with local as (mesh, client):
            for (name, (recording, vocab_hash)), num_streams in ways:
                asked = list(recording.texts) * max(1, 2 * num_streams // len(recording.texts))
                await tokens_per_s(client, asked[:num_streams], num_streams, 0)
                plain, guessed = list[float](), {each: list[float]() for each in guess_ms}
                for _ in range(num_turns):
                    plain.append(await tokens_per_s(client, asked, num_streams, 0))
                    for each in guess_ms:
                        draft = emulated_draft(mesh.endpoint, recording, vocab_hash, each / 1e3)
                        async with draft:
                            await _until_there(client)
                            await tokens_per_s(client, asked[:num_streams], num_streams, None)
                            rate = await tokens_per_s(client, asked, num_streams, None)
                            guessed[each].append(rate)
                for each, rates in guessed.items():
                    ratio = median(b / a for a, b in zip(plain, rates, strict=True))
                    click.echo(
                        f"{trip:g} ms | {name} | {num_streams} | {fmean(plain):.1f} | {each:g} ms "
                        f"| {fmean(rates):.1f} | {ratio:.2f}"
                    )


async def _until_there(client: MeshClient) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while True:
            if any(node.role == "draft" for node in (await client.nodes()).nodes):
                return
            await asyncio.sleep(0.05)
