"""What guesses gain: the default pair on one machine, as planned and plainly, in turns."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.client import Client
from nodes.config import EngineSettings, environment
from nodes.generation import GenerateOptions
from nodes.local import local_mesh
from nodes.messages import FinishedNotice, StreamFigures, TokensNotice

_FILES = {"chat": HELD_OUT, "copy": COPYING}

_USERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: its tokens, seconds from the first to the last of them, figures."""

    token_ids: tuple[int, ...]
    seconds: float
    figures: StreamFigures


def run_speed(
    counts: Sequence[int], *, num_prompts: int, max_tokens: int, temperature: float, draft: str
) -> str:
    """A table: for each kind of prompt and number of streams, the ratio of the two rates.

    The same prompts are answered with gamma auto and with gamma 0, one after the other.
    """
    return asyncio.run(_run(counts, num_prompts, max_tokens, temperature, draft))


async def _run(
    counts: Sequence[int], num_prompts: int, max_tokens: int, temperature: float, draft: str
) -> str:
    catalog = Catalog(default_cache_dir(environment()))
    target = EngineSettings(model=str(catalog.ensure(DEFAULT_TARGET)), max_streams=16, threads=1)
    path = str(catalog.ensure(draft or DEFAULT_DRAFT))
    rows = [
        "| prompts | streams | plain tokens/s | auto / plain (range) | tokens a pass with guesses "
        "| accepted | same texts |",
        "|---|---|---|---|---|---|---|",
    ]
    options = GenerateOptions(max_tokens=max_tokens, temperature=temperature, seed=1, top_p=0.95)
    async with local_mesh(target, replace(target, model=path, profile="fast"), lookup=True) as (
        mesh,
        client,
    ):
        for kind, name in _FILES.items():
            prompts = HeldOutPrompts(num_prompts, name).texts()
            await mesh.beside(_together(client, prompts[:1], replace(options, max_tokens=24)))
            for count in counts:
                groups = [prompts[at : at + count] for at in range(0, len(prompts), count)]
                rows.append(await mesh.beside(_row(client, kind, count, groups, options)))
    return "\n".join(rows)


async def _row(
    client: Client, kind: str, count: int, groups: Sequence[Sequence[str]], options: GenerateOptions
) -> str:
    ratios, plain_rates = [], []
    equal = num_texts = 0
    num_rounds = num_steps = num_guesses = num_accepted = 0
    for turn, group in enumerate(groups):
        pair = [replace(options, gamma=None), replace(options, gamma=0)]
        answers = {}
        # Who goes first changes from group to group: machines drift.
        for option in pair if turn % 2 else pair[::-1]:
            answers[option.gamma] = await _together(client, group, option)
        auto, plain = answers[None], answers[0]
        ratios.append(rate(auto) / rate(plain))
        plain_rates.append(rate(plain))
        equal += sum(a.token_ids == b.token_ids for a, b in zip(auto, plain, strict=True))
        num_texts += len(group)
        for answer in auto:
            num_rounds += answer.figures.num_rounds
            num_steps += answer.figures.num_plain_steps
            num_guesses += answer.figures.num_draft_tokens
            num_accepted += answer.figures.num_accepted_tokens
    tokens = (num_rounds + num_accepted) / max(1, num_rounds)
    accepted = f"{num_accepted / num_guesses:.2f} of {num_guesses}" if num_guesses else "-"
    return (
        f"| {kind} | {count} | {median(plain_rates):.1f} | {median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}) | {tokens:.2f} in "
        f"{num_rounds / max(1, num_rounds + num_steps):.2f} of passes | {accepted} "
        f"| {equal} of {num_texts} |"
    )


def rate(answers: Sequence[Answer]) -> float:
    """Tokens/s of all, from each one's first token to its last."""
    seconds = max(answer.seconds for answer in answers)
    return sum(len(answer.token_ids) - 1 for answer in answers) / seconds


async def _together(
    client: Client, prompts: Sequence[str], options: GenerateOptions
) -> list[Answer]:
    return await asyncio.gather(*(ask_one(client, prompt, options) for prompt in prompts))


def stranger(options: GenerateOptions) -> GenerateOptions:
    """For an owner who has asked for nothing before: a text that is asked for twice would else be
    guessed from what it was the first time."""
    return replace(options, user=f"user-{next(_USERS)}")


async def ask_one(client: Client, prompt: str, options: GenerateOptions) -> Answer:
    """One request from its first to its last event."""
    options = stranger(options)
    token_ids: list[int] = []
    first = last = 0.0
    figures = None
    async for event in client.generate(prompt, options):
        if isinstance(event, TokensNotice):
            last = time.perf_counter()
            first = first or last
            token_ids += event.token_ids
        elif isinstance(event, FinishedNotice):
            figures = event.figures
    assert figures is not None
    return Answer(tuple(token_ids), max(1e-9, last - first), figures)
