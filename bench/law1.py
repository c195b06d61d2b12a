"""Test of law 1 on a real pair: the mesh's token ids must equal those of a plain engine loop.

The reference is one sequence alone in a fresh engine, one token per pass, on one thread. In the
mesh the cache also holds the sequences of other streams.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.messages import MAX_GAMMA
from airdraft.nodes.service.local import local_mesh
from bench.asking import Pair, Taken, ask_one
from bench.harness.cases import Case, case, make_prompts
from bench.harness.report import Findings, conclude, head, note, row
from bench.options import COUNTS, at_least, draft_option, listed, streams_option, target_option

_CELLS = 16_384
_GREEDY = GenerateOptions(seed=7)
_SAMPLED = replace(_GREEDY, temperature=0.8, top_k=40, top_p=0.95)
Setting = tuple[int | None, float]


def _setting(case: Case) -> Setting:
    return case.options.gamma, case.options.temperature


@click.command("law1")
@at_least("--prompts", 100)
@at_least("--max-tokens", 64)
@click.option("--gammas", type=listed(int, lambda: range(MAX_GAMMA + 1)), default="0,1,3,8")
@streams_option("1,4,8")
@click.option("--threads", type=COUNTS, default="1,2", help="Engine threads of the target.")
@at_least("--longest", 1500, "Tokens of the longest prompt.")
@target_option
@draft_option
def law1_command(prompts: int, longest: int, target: str, draft: str, **cases: Any) -> None:
    """Check that a real pair's texts equal those of a loop.

    Token ids from a mesh are compared with those of a plain loop over one sequence.

    \b
    Example:
      python -m bench law1 --prompts 10 --gammas 0,4 --streams 4
    """
    texts = make_prompts(prompts, longest=longest)
    conclude(run_law1(Pair(target, draft), texts, **cases))


def run_law1(
    pair: Pair,
    texts: Sequence[str],
    max_tokens: int,
    gammas: Sequence[int],
    streams: Sequence[int],
    threads: Sequence[int],
) -> Findings:
    """Returns a table of differing texts by configuration. A configuration in which texts differ is
    a fault. threads: each number is combined with each number of streams."""
    started = time.perf_counter()
    target, _ = pair.settings()
    work = _references(Path(target.model), texts, max_tokens, gammas)
    note(f"reference: {time.perf_counter() - started:.0f} s")
    found = Findings(
        [head("streams", "threads", "gamma", "T", "texts", "differ", "guesses", "accepted")]
    )
    for num_streams, num_threads in itertools.product(streams, threads):
        began, where = time.perf_counter(), f"{num_streams} streams, {num_threads} threads"
        taken, wrong = asyncio.run(_serve_all(pair, work, num_streams, num_threads))
        note(f"{where}: {time.perf_counter() - began:.0f} s")
        for setting in dict.fromkeys(map(_setting, work)):
            guesses = taken[setting].num_guesses, taken[setting].num_accepted
            cells = *setting, len(texts), wrong[setting], *guesses
            found.lines.append(row(num_streams, num_threads, *cells))
            note(found.lines[-1])
            if wrong[setting]:
                place = f"{where}, gamma {setting[0]}, T {setting[1]}"
                found.faults.append(f"{place}: {wrong[setting]} texts differ")
    return found


def _references(
    path: Path, texts: Sequence[str], max_tokens: int, gammas: Sequence[int]
) -> list[Case]:
    """Decode the texts in a plain loop, greedily and sampled; return what meshes have to do."""
    work = []
    with closing(LlamaModel(LlamaConfig(path=path, num_cells=4096, max_sequences=1))) as model:
        for text in texts:
            ids = tuple(model.vocabulary.encode(text))
            for kind in (_GREEDY, _SAMPLED):
                options = replace(kind, max_tokens=max_tokens)
                plain = case(model, model.vocabulary.piece, ids, ids, options)
                work += [replace(plain, options=replace(options, gamma=g)) for g in gammas]
    return work


async def _serve_all(
    pair: Pair, work: Sequence[Case], num_streams: int, threads: int
) -> tuple[dict[Setting, Taken], Counter[Setting]]:
    """Run all texts, num_streams at a time; streams of every gamma and temperature share passes.

    Returns by gamma and temperature what passes took, and the number of differing texts.
    """
    taken: defaultdict[Setting, Taken] = defaultdict(Taken)
    wrong = Counter[Setting]()
    todo = iter(work)
    target, draft = pair.settings()
    target = replace(target, cells=_CELLS, threads=threads)
    draft = draft and replace(draft, cells=_CELLS)

    async def worker(client: MeshClient) -> None:
        for each in todo:
            setting, (expected,) = _setting(each), each.expected
            answer = await ask_one(client, each.prompt, each.options)
            for figures in answer.figures:
                taken[setting].add(figures)
            if answer.token_ids != expected.token_ids:
                wrong[setting] += 1
                same = [a == b for a, b in zip(answer.token_ids, expected.token_ids, strict=False)]
                first = [*same, False].index(False)
                note(f"{setting}: differs at output token {first} of {len(expected.token_ids)}")

    config = CoordinatorConfig(prompt_lookup=False)
    async with local_mesh(target, draft, config=config) as (mesh, client):
        await asyncio.gather(*(mesh.beside(worker(client)) for _ in range(num_streams)))
    return taken, wrong
