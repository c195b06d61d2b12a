"""Test of law 1 on a real pair: the mesh's token ids must equal those of a plain engine loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

from bench.asking import ask_one, taken_of
from bench.harness.cases import undisturbed
from bench.harness.report import Findings, head, note, row
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.service.local import local_mesh

_CELLS = 16_384
_SEED = 7
_TEMPERATURES = (0.0, 0.8)


@dataclass(slots=True)
class _Tally:
    num_texts: int = 0
    num_wrong: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


def run_law1(
    *,
    texts: list[str],
    max_tokens: int,
    gammas: list[int],
    stream_counts: list[int],
    thread_counts: list[int],
    draft: str = "",
    target: str = DEFAULT_TARGET,
) -> Findings:
    """Return a table of differing texts by configuration. A configuration in which texts differ is
    a fault.

    The reference is one sequence alone in a fresh engine, one token per pass, on one thread. In the
    mesh the cache also holds the sequences of other streams. thread_counts: engine threads of the
    target, each combined with each number of streams. draft: "" for that of the catalogue,
    "none" for none.
    """
    catalog = Catalog(default_cache_dir(environment()))
    path = catalog.ensure(target)
    draft_path = "" if draft == "none" else str(catalog.ensure(draft or catalog.draft_of(target)))
    started = time.perf_counter()
    prompts, references = _references(path, texts, max_tokens)
    note(f"reference: {time.perf_counter() - started:.0f} s")
    found = Findings(
        [head("streams", "threads", "gamma", "T", "texts", "differ", "guesses", "accepted")]
    )
    for num_streams, threads in itertools.product(stream_counts, thread_counts):
        began = time.perf_counter()
        kinds = list(itertools.product(gammas, references))
        work = [
            _Work(prompt, references[kind[1]][number], kind)
            for number, prompt in enumerate(prompts)
            for kind in kinds
        ]
        tallies = {kind: _Tally() for kind in kinds}
        asyncio.run(_serve_all(path, draft_path, work, tallies, max_tokens, num_streams, threads))
        note(f"{num_streams} streams, {threads} threads: {time.perf_counter() - began:.0f} s")
        for kind, tally in tallies.items():
            found.lines.append(row(num_streams, threads, *kind, *astuple(tally)))
            note(found.lines[-1])
            if tally.num_wrong:
                place = f"{num_streams} streams, {threads} threads, gamma {kind[0]}, T {kind[1]}"
                found.faults.append(f"{place}: {tally.num_wrong} texts differ")
    return found


def _options(temperature: float, max_tokens: int, gamma: int) -> GenerateOptions:
    return GenerateOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=40 if temperature else 0,
        top_p=0.95 if temperature else 1.0,
        seed=_SEED,
        gamma=gamma,
    )


def _references(
    path: Path, texts: list[str], max_tokens: int
) -> tuple[list[tuple[int, ...]], dict[float, list[tuple[int, ...]]]]:
    """Return prompt ids, and for each temperature the token ids of the plain loop."""
    with closing(LlamaModel(LlamaConfig(path=path, num_cells=4096, max_sequences=1))) as model:
        piece = model.vocabulary.piece

        def alone(prompt: tuple[int, ...], temperature: float) -> tuple[int, ...]:
            options = _options(temperature, max_tokens, 0)
            return undisturbed(model, piece, prompt, options, 0).token_ids

        prompts = [tuple(model.vocabulary.encode(text)) for text in texts]
        references = {t: [alone(prompt, t) for prompt in prompts] for t in _TEMPERATURES}
        return prompts, references


@dataclass(frozen=True, slots=True)
class _Work:
    """One text to generate. reference: its right token ids. kind: gamma and temperature."""

    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    kind: tuple[int, float]


async def _serve_all(
    path: Path,
    draft_path: str,
    work: list[_Work],
    tallies: dict[tuple[int, float], _Tally],
    max_tokens: int,
    num_streams: int,
    threads: int,
) -> None:
    """Run all texts, num_streams at a time; streams of every gamma and temperature share passes."""
    target = EngineSettings(model=str(path), cells=_CELLS, threads=threads)
    draft = EngineSettings(model=draft_path, cells=_CELLS, profile="fast", threads=1)
    todo = iter(work)
    async with local_mesh(target, draft if draft_path else None) as (mesh, client):

        async def worker() -> None:
            for item in todo:
                await mesh.beside(_one_text(client, item, max_tokens, tallies[item.kind]))

        await asyncio.gather(*(worker() for _ in range(num_streams)))


async def _one_text(client: Client, item: _Work, max_tokens: int, tally: _Tally) -> None:
    gamma, temperature = item.kind
    answer = await ask_one(client, item.prompt, _options(temperature, max_tokens, gamma))
    taken = taken_of([answer])
    tally.num_texts += 1
    tally.num_draft_tokens += taken.num_guesses
    tally.num_accepted_tokens += taken.num_accepted
    if answer.token_ids != item.reference:
        tally.num_wrong += 1
        pairs = zip(answer.token_ids, item.reference, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(item.reference))
        note(f"{item.kind}: differs at output token {first}, prompt of {len(item.prompt)}")
