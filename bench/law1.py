"""Test of law 1 on a real pair: the mesh's token ids must equal those of a plain engine loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from bench.harness.report import head, note, row
from bench.speed import ask_one
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings, environment
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import Span
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from nodes.service.local import local_mesh

_CELLS = 16_384
_SEED = 7


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
    draft: str | None = None,
    target: str = DEFAULT_TARGET,
) -> tuple[str, int]:
    """Return a table of differing texts by configuration, and the number of texts that differ.

    The reference is one sequence alone in a fresh engine, one token per pass, on one thread. In the
    mesh the cache also holds the sequences of other streams. thread_counts: engine threads of the
    target, each combined with each number of streams. draft: default is the catalogue's draft.
    """
    catalog = Catalog(default_cache_dir(environment()))
    path = catalog.ensure(target)
    draft_path = str(catalog.ensure(draft or catalog.draft_of(target)))
    started = time.perf_counter()
    prompts, references = _references(path, texts, max_tokens)
    note(f"reference: {time.perf_counter() - started:.0f} s")
    rows = [head("streams", "threads", "gamma", "T", "texts", "differ", "guesses", "accepted")]
    num_wrong = 0
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
            num_wrong += tally.num_wrong
            rows.append(row(num_streams, threads, *kind, *astuple(tally)))
            note(rows[-1])
    return "\n".join(rows), num_wrong


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
    model = LlamaModel(LlamaConfig(path=path, num_cells=4096, max_sequences=1))
    try:
        prompts = [tuple(model.vocabulary.encode(text)) for text in texts]
        references: dict[float, list[tuple[int, ...]]] = {0.0: [], 0.8: []}
        for prompt in prompts:
            for start in range(0, len(prompt) - 1, 256):
                piece = prompt[:-1][start : start + 256]
                model.forward([Span(0, start, piece)])
            for temperature, outputs in references.items():
                model.truncate(0, len(prompt) - 1)
                options = _options(temperature, max_tokens, 0)
                outputs.append(plain_loop(model, prompt, options))
            model.truncate(0, 0)
        return prompts, references
    finally:
        model.close()


def plain_loop(
    model: LlamaModel, prompt: tuple[int, ...], options: GenerateOptions
) -> tuple[int, ...]:
    """Decode one sequence, one token per pass, and return its token ids.

    All prompt tokens but the last are already in the cache.
    """
    sampling = Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed or 0,
    )
    sampler = Sampler(sampling)
    token_ids = list(prompt)
    while len(token_ids) - len(prompt) < options.max_tokens:
        position = len(token_ids) - 1
        logits = model.forward([Span(0, position, [token_ids[-1]], 1)])
        token_id = sampler.sample(logits[0], len(token_ids))
        if token_id in model.info.eog_token_ids:
            break
        token_ids.append(token_id)
    return tuple(token_ids[len(prompt) :])


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
    async with local_mesh(target, draft) as (mesh, client):

        async def worker() -> None:
            for item in todo:
                await mesh.beside(_one_text(client, item, max_tokens, tallies[item.kind]))

        await asyncio.gather(*(worker() for _ in range(num_streams)))


async def _one_text(client: Client, item: _Work, max_tokens: int, tally: _Tally) -> None:
    gamma, temperature = item.kind
    answer = await ask_one(client, item.prompt, _options(temperature, max_tokens, gamma))
    tally.num_texts += 1
    for figures in answer.figures:
        tally.num_draft_tokens += figures.num_draft_tokens
        tally.num_accepted_tokens += figures.num_accepted_tokens
    if answer.token_ids != item.reference:
        tally.num_wrong += 1
        pairs = zip(answer.token_ids, item.reference, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(item.reference))
        note(f"{item.kind}: differs at output token {first}, prompt of {len(item.prompt)}")
