"""The mesh on this machine, without emulation, beside the bare loop, pair by pair."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.bare import BareLoop
from bench.cores import wait_for_cores
from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts
from bench.harness.report import head, row
from bench.live.answers import Together, ask_together
from bench.live.bad_draft import write_bad_draft
from bench.live.pairs import Ratio, paired_ratio
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.catalog.fetch import quantize_in_child
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.messages import StartedNotice
from nodes.service.local import local_mesh
from nodes.telemetry.status import ErrorStatus

# Tokens decoded before a row of pairs: draft nodes read their first texts, and estimates settle.
_WARM_UP_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Cell:
    """One target, draft and number of streams. Rates are medians. ratio: mesh to bare loop.

    num_short: pairs that began while other guests of the machine used some of its cores. errors:
    errors of predicted times, by stage, over the last 1,000 of each.
    """

    target: str
    draft: str
    num_streams: int
    bare_tokens_per_s: float
    mesh_tokens_per_s: float
    ratio: Ratio
    figures: Together
    num_short: int = 0
    errors: Mapping[str, ErrorStatus] = field(default_factory=dict)

    def row(self) -> str:
        made = self.figures
        accepted = f"{made.num_accepted / made.num_guesses:.2f}" if made.num_guesses else "-"
        reason, count = (made.reasons.most_common(1) or [("-", 0)])[0]
        times = f" ({count} of {made.reasons.total()})" if count else ""
        short = f"; {self.num_short} pairs on fewer cores" if self.num_short else ""
        return row(
            self.target,
            self.draft,
            self.num_streams,
            f"{self.bare_tokens_per_s:.1f}",
            self.ratio,
            f"{made.guessing_share:.2f}",
            accepted,
            self._error("pass"),
            self._error("plan"),
            f"{reason}{times}{short}",
        )

    def _error(self, stage: str) -> str:
        error = self.errors.get(stage)
        return f"{error.median:.2f}, p95 {error.p95:.2f}" if error and error.num_seen else "-"


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
) -> list[Cell]:
    """Measure every cell. report: receives each row as soon as it is measured."""
    report(HEAD)
    with tempfile.TemporaryDirectory(prefix="airdraft-live-") as folder:
        files = TargetFiles(Path(folder))
        cells = []
        for target in targets:
            for draft in drafts:
                made = asyncio.run(
                    _cells(files, target, draft, counts, num_pairs, max_tokens, report)
                )
                cells += made
    return cells


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


async def _cells(
    files: TargetFiles,
    target_name: str,
    draft_name: str,
    counts: Sequence[int],
    num_pairs: int,
    max_tokens: int,
    report: Callable[[str], None],
) -> list[Cell]:
    path, draft_path = files.target(target_name), files.draft(draft_name)
    target = EngineSettings(model=str(path), max_streams=16, threads=1)
    draft = None
    if draft_path is not None:
        draft = EngineSettings(model=str(draft_path), max_streams=16, profile="fast", threads=1)
    prompts = HeldOutPrompts(64, COPYING if draft_name == "lookup" else HELD_OUT).texts()
    options = GenerateOptions(max_tokens=max_tokens, ignore_eog=True, seed=1)
    cells = []
    bare = await asyncio.to_thread(BareLoop, path)
    try:
        async with local_mesh(target, draft, lookup=draft_name == "lookup") as (mesh, client):
            for count in counts:
                cell = await mesh.beside(_cell(client, bare, prompts, options, num_pairs, count))
                errors = await _errors(client)
                made = Cell(target_name, draft_name, count, *cell, errors)
                report(made.row())
                cells.append(made)
    finally:
        bare.close()
    return cells


async def _errors(client: Client) -> Mapping[str, ErrorStatus]:
    observed = [target.observed for target in (await client.status()).targets]
    return next((seen.errors for seen in observed if seen is not None), {})


async def _cell(
    client: Client,
    bare: BareLoop,
    prompts: Sequence[str],
    options: GenerateOptions,
    num_pairs: int,
    count: int,
) -> tuple[float, float, Ratio, Together, int]:
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
    bare_rate, mesh_rate = (median(rates) for rates in zip(*pairs, strict=True))
    return bare_rate, mesh_rate, paired_ratio(pairs), figures, num_short


async def _read(client: Client, prompt: str) -> int:
    """Make the target read and keep a prompt; return its length in tokens."""
    options = GenerateOptions(max_tokens=1, ignore_eog=True, seed=1, gamma=0)
    length = 0
    async for event in client.generate(prompt, options):
        if isinstance(event, StartedNotice):
            length = event.num_prompt_tokens
    return length
