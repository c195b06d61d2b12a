"""The mesh on this machine, without emulation, beside the bare loop, pair by pair."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.bare import BareLoop
from bench.cores import wait_for_cores
from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts
from bench.harness.report import head, row
from bench.live.answers import Together, ask_together
from bench.live.bad_draft import write_bad_draft
from bench.live.pairs import paired_ratio
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.catalog.fetch import quantize_in_child
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.messages import StartedNotice
from nodes.service.local import local_mesh

# Tokens decoded before a row of pairs: draft nodes read their first texts, and estimates settle.
_WARM_UP_TOKENS = 48


HEAD = head(
    *("target", "draft", "streams", "bare tokens/s", "mesh / bare (95 %)", "passes with guesses"),
    *("accepted", "pass error", "plan error", "why plain, most often"),
)


def run_machine(
    targets: Sequence[str],
    drafts: Sequence[str],
    counts: Sequence[int],
    *,
    num_pairs: int,
    max_tokens: int,
    report: Callable[[str], None],
) -> None:
    """Measure every cell. report: receives each row as soon as it is measured."""
    report(HEAD)
    with tempfile.TemporaryDirectory(prefix="airdraft-live-") as folder:
        files = TargetFiles(Path(folder))
        for target in targets:
            for draft in drafts:
                asyncio.run(_rows(files, target, draft, counts, num_pairs, max_tokens, report))


class TargetFiles:
    """The model files of the table; those that the catalogue lacks are made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._catalog = Catalog(default_cache_dir(environment()))

    def target(self, name: str) -> Path:
        if name == "F16":
            made = self._folder / "f16.gguf"
            if not made.exists():
                quantize_in_child(self._catalog.ensure("smollm2-135m-q4_1"), made, "F16")
            return made
        return self._catalog.ensure({"Q8_0": DEFAULT_TARGET, "Q4_0": "smollm2-135m-q4_0"}[name])

    def draft(self, name: str) -> Path | None:
        good = self._catalog.ensure(DEFAULT_DRAFT)
        if name == "bad":
            made = self._folder / "bad.gguf"
            if not made.exists():
                write_bad_draft(good, made)
            return made
        return good if name == "good" else None


async def _rows(
    files: TargetFiles,
    target_name: str,
    draft_name: str,
    counts: Sequence[int],
    num_pairs: int,
    max_tokens: int,
    report: Callable[[str], None],
) -> None:
    path, draft_path = files.target(target_name), files.draft(draft_name)
    target = EngineSettings(model=str(path), max_streams=16, threads=1)
    draft = None
    if draft_path is not None:
        draft = EngineSettings(model=str(draft_path), max_streams=16, profile="fast", threads=1)
    prompts = HeldOutPrompts(64, COPYING if draft_name == "lookup" else HELD_OUT).texts()
    options = GenerateOptions(max_tokens=max_tokens, ignore_eog=True, seed=1)
    bare = await asyncio.to_thread(BareLoop, path)
    try:
        async with local_mesh(target, draft, lookup=draft_name == "lookup") as (mesh, client):
            for count in counts:
                shown = await mesh.beside(_shown(client, bare, prompts, options, num_pairs, count))
                report(row(target_name, draft_name, count, *shown))
    finally:
        bare.close()


async def _shown(
    client: Client,
    bare: BareLoop,
    prompts: Sequence[str],
    options: GenerateOptions,
    num_pairs: int,
    count: int,
) -> list[object]:
    """Measure pairs with `count` streams; return the columns from the bare loop's rate on."""

    def some(turn: int) -> list[str]:
        return [prompts[(turn * count + k) % len(prompts)] for k in range(count)]

    warm_up = GenerateOptions(max_tokens=_WARM_UP_TOKENS, ignore_eog=True, seed=2)
    await ask_together(client, some(num_pairs), warm_up)
    await asyncio.to_thread(bare.measure, count, _WARM_UP_TOKENS)
    pairs, figures, num_short = [], Together(), 0
    for turn in range(num_pairs):
        group = some(turn)
        # The target reads all prompts beforehand, so that all streams then decode together.
        length = round(median(await asyncio.gather(*(_read(client, text) for text in group))))
        num_short += not await asyncio.to_thread(wait_for_cores)
        rates = {}
        for side in ("bare", "mesh") if turn % 2 else ("mesh", "bare"):
            if side == "bare":
                rates[side] = await asyncio.to_thread(
                    bare.measure, count, options.max_tokens, length
                )
            else:
                made = await ask_together(client, group, options)
                rates[side] = made.tokens_per_s
                figures.add(made)
        pairs.append((rates["bare"], rates["mesh"]))
    reason, times = (figures.reasons.most_common(1) or [("-", 0)])[0]
    why = f"{reason} ({times} of {figures.reasons.total()})" if times else reason
    # Pairs that began while other guests of the machine used some of its cores.
    short = f"; {num_short} pairs on fewer cores" if num_short else ""
    accepted = f"{figures.num_accepted / figures.num_guesses:.2f}" if figures.num_guesses else "-"
    return [
        f"{median(rate for rate, _ in pairs):.1f}",
        paired_ratio(pairs),
        f"{figures.guessing_share:.2f}",
        accepted,
        *await _errors(client),
        f"{why}{short}",
    ]


async def _errors(client: Client) -> Iterator[str]:
    """Return the errors of predicted times, of passes and plans, over the last 1,000 of each."""
    observed = [target.observed for target in (await client.status()).targets]
    errors = next((seen.errors for seen in observed if seen is not None), {})
    found = (errors.get(stage) for stage in ("pass", "plan"))
    return (f"{e.median:.2f}, p95 {e.p95:.2f}" if e and e.num_seen else "-" for e in found)


async def _read(client: Client, prompt: str) -> int:
    """Make the target read and keep a prompt; return its length in tokens."""
    options = GenerateOptions(max_tokens=1, ignore_eog=True, seed=1, gamma=0)
    length = 0
    async for event in client.generate(prompt, options):
        if isinstance(event, StartedNotice):
            length = event.num_prompt_tokens
    return length
