"""The mesh on this machine, without emulation, beside the bare loop, pair by pair."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import click
import numpy as np

from airdraft.nodes.catalog import DEFAULT_DRAFT
from airdraft.nodes.catalog.gguf import Header
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.messages import StartedNotice
from airdraft.nodes.service.local import local_mesh
from bench.asking import Answer, Pair, ask_one, taken_of
from bench.bare import SKIPPED_STEPS, BareLoop
from bench.cores import wait_for_cores
from bench.harness.report import head, row
from bench.load.figures import joint_rate
from bench.load.workloads import workload
from bench.options import max_tokens_option, model_file, pairs_option, streams_option, target_option
from bench.pairs import in_turns, paired_ratio

# Tokens decoded before a row of pairs: draft nodes read their first texts, and estimates settle.
_WARM_UP_TOKENS = 48


HEAD = head(
    *("streams", "bare tokens/s", "mesh / bare (95 %)", "passes with guesses", "accepted"),
    *("pass error", "plan error", "why plain, most often"),
)


@click.command("machine")
@target_option
@click.option("--draft", default="", help='As in `speed`, or "bad" for one that is always wrong.')
@click.option("--lookup", is_flag=True, help="Look for guesses in texts that copy themselves.")
@streams_option("1,4,16")
@pairs_option
@max_tokens_option
def machine_command(
    target: str, draft: str, lookup: bool, streams: list[int], pairs: int, max_tokens: int
) -> None:
    """Compare a real mesh with a bare llama.cpp loop.

    Both run on this machine with the same numerics; nothing is emulated.

    \b
    Example:
      python -m bench live machine --draft none --streams 1 --pairs 3
    """
    click.echo(HEAD)
    with tempfile.TemporaryDirectory(prefix="airdraft-live-") as folder:
        if draft == "bad":
            made = Path(folder) / "bad.gguf"
            write_bad_draft(model_file(DEFAULT_DRAFT), made)
            draft = str(made)
        asyncio.run(_rows(Pair(target, draft, lookup), streams, pairs, max_tokens))


def write_bad_draft(source: Path, made: Path) -> None:
    """Copy a draft's GGUF and shuffle the blocks of weights inside each matrix. The copy is wrong,
    but as fast and confident as the draft: plans must cope with it.

    Blocks of quantised weights stay whole, so that all weights keep plausible values.
    """
    made.write_bytes(source.read_bytes())
    random = np.random.default_rng(1)
    with made.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        header = Header(data)
        for tensor in header.tensors:
            # Norms stay as they are.
            if not tensor.name.endswith("weight") or "norm" in tensor.name:
                continue
            end = tensor.offset + tensor.num_blocks * tensor.block_bytes
            blocks = np.frombuffer(data[tensor.offset : end], dtype=np.uint8)
            blocks = blocks.reshape(tensor.num_blocks, tensor.block_bytes)
            data[tensor.offset : end] = blocks[random.permutation(tensor.num_blocks)].tobytes()


async def _rows(pair: Pair, counts: Sequence[int], num_pairs: int, max_tokens: int) -> None:
    target, draft = pair.settings()
    prompts = workload("copy" if pair.looks_up else "chat").prompts
    options = GenerateOptions(max_tokens=max_tokens, ignore_eog=True, seed=1)
    with closing(BareLoop(Path(target.model))) as bare:
        async with local_mesh(
            target, draft, config=CoordinatorConfig(prompt_lookup=pair.looks_up)
        ) as (mesh, client):
            for count in counts:
                shown = await mesh.beside(_shown(client, bare, prompts, options, num_pairs, count))
                click.echo(row(count, *shown))


async def _shown(
    client: MeshClient,
    bare: BareLoop,
    prompts: Sequence[str],
    options: GenerateOptions,
    num_pairs: int,
    count: int,
) -> list[object]:
    """Measure pairs with `count` streams; return the columns from the bare loop's rate on."""
    answers: list[Answer] = []
    lengths: list[int] = []
    are_free: list[bool] = []

    def some(turn: int) -> list[str]:
        return [prompts[(turn * count + k) % len(prompts)] for k in range(count)]

    async def prepare(turn: int) -> None:
        # The target reads all prompts beforehand, so that all streams then decode together.
        read = await asyncio.gather(*(_read(client, text) for text in some(turn)))
        lengths.append(round(median(read)))
        are_free.append(await asyncio.to_thread(wait_for_cores))

    async def of_mesh(turn: int) -> float:
        made = await asyncio.gather(*(ask_one(client, text, options) for text in some(turn)))
        answers.extend(made)
        return joint_rate([each.token_s for each in made], SKIPPED_STEPS, ends_early=True)

    async def of_bare(turn: int) -> float:
        return await asyncio.to_thread(bare.measure, count, options.max_tokens, lengths[turn])

    warm_up = GenerateOptions(max_tokens=_WARM_UP_TOKENS, ignore_eog=True, seed=2)
    await asyncio.gather(*(ask_one(client, text, warm_up) for text in some(num_pairs)))
    await asyncio.to_thread(bare.measure, count, _WARM_UP_TOKENS)
    pairs = [(of, to) for to, of in await in_turns(num_pairs, of_mesh, of_bare, before=prepare)]
    taken = taken_of(answers)
    return [
        f"{median(rate for rate, _ in pairs):.1f}",
        paired_ratio(pairs),
        f"{taken.guessing_share:.2f}",
        f"{taken.acceptance:.2f}" if taken.num_guesses else "-",
        *await _errors(client),
        _why_plain(answers, num_short=are_free.count(False)),
    ]


def _why_plain(answers: Sequence[Answer], num_short: int) -> str:
    """Returns the most frequent reason for plain decoding. num_short: pairs that began while other
    guests of the machine used some of its cores."""
    reasons = Counter(
        figures.plain_reason
        for answer in answers
        for figures in answer.figures
        if figures.plain_reason
    )
    why = (f"{reason} ({times} of {reasons.total()})" for reason, times in reasons.most_common(1))
    return next(why, "-") + (f"; {num_short} pairs on fewer cores" if num_short else "")


async def _errors(client: MeshClient) -> Iterator[str]:
    """Returns the errors of predicted times, of passes and plans, over the last 1,000 of each."""
    observed = [target.observed for target in (await client.status()).targets]
    errors = next((seen.errors for seen in observed if seen is not None), {})
    found = (errors.get(stage) for stage in ("pass", "plan"))
    return (f"{e.median:.2f}, p95 {e.p95:.2f}" if e and e.num_seen else "-" for e in found)


async def _read(client: MeshClient, prompt: str) -> int:
    """Make the target read and keep a prompt; return its length in tokens."""
    options = GenerateOptions(max_tokens=1, ignore_eog=True, seed=1, gamma=0)
    length = 0
    async for event in client.generate(prompt, options):
        if isinstance(event, StartedNotice):
            length = event.num_prompt_tokens
    return length
