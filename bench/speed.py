"""The gain of guesses: a pair on one machine, with planned guesses and without, in turns."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.emulate.replay import PREFIX
from bench.harness.airdraft import register
from bench.harness.report import head, row
from bench.live.pairs import paired_ratio
from bench.load.workloads import Workload, turns_of, workload
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions, Prompt
from nodes.config.settings import EngineSettings, environment
from nodes.engine.rules import NO_RULES, Grammar, LogitRules
from nodes.messages import ChatMessage, FinishedNotice, StreamFigures, TokensNotice
from nodes.service.local import local_mesh

_USERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to one or more requests. seconds: from the first to the last token."""

    token_ids: tuple[int, ...]
    seconds: float
    figures: tuple[StreamFigures, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Models by name or file, or replay:FILE of an emulated device. draft: "" for the catalogue's,
    "none" for none. weights: those of the draft, as in EngineSettings."""

    target: str = DEFAULT_TARGET
    draft: str = ""
    looks_up: bool = True
    weights: str = "auto"

    def settings(self) -> tuple[EngineSettings, EngineSettings | None]:
        """Return the settings of target and draft (or None), with one thread each.

        If they are emulated, nodes that this process starts can open them from now on.
        """
        if self.target.startswith(PREFIX):
            register()
            emulated = EngineSettings(model=self.target, max_streams=16)
            has_draft = self.draft != "none"
            return emulated, replace(emulated, model=self.draft) if has_draft else None
        catalog = Catalog(default_cache_dir(environment()))
        path = str(Path(catalog.ensure(self.target)).resolve())
        target = EngineSettings(model=path, max_streams=16, threads=1)
        name = self.draft or catalog.draft_of(self.target) or DEFAULT_DRAFT
        if name == "none":
            return target, None
        draft = str(Path(catalog.ensure(name)).resolve())
        fast = replace(target, model=draft, profile="fast")
        return target, replace(fast, vocabulary=path, weights=self.weights)


HEAD = head(
    *("prompts", "streams", "plain tokens/s", "auto / plain, median (95 % interval)"),
    *("tokens a pass with guesses", "accepted", "same texts"),
)


async def run_speed(
    counts: Sequence[int],
    kinds: Sequence[str],
    pair: Pair,
    *,
    num_prompts: int,
    max_tokens: int,
    temperature: float,
    report: Callable[[str], None],
) -> None:
    """Report a table of the ratio of the two rates, by workload and number of streams.

    The same prompts are answered with gamma auto and with gamma 0, one after the other. report:
    receives each row as soon as it is measured.
    """
    options = GenerateOptions(max_tokens=max_tokens, temperature=temperature, seed=1, top_p=0.95)
    report(HEAD)
    target, draft = pair.settings()
    async with local_mesh(target, draft, lookup=pair.looks_up) as (mesh, client):
        for kind in kinds:
            made = workload(kind, num_prompts)
            requests = [
                (prompt, replace(options, rules=rules_of(made, k)))
                for k, prompt in enumerate(made.prompts)
            ]
            warm_up = [(prompt, replace(option, max_tokens=24)) for prompt, option in requests[:1]]
            await mesh.beside(_together(client, warm_up, None))
            for count in counts:
                groups = [requests[at : at + count] for at in range(0, len(requests), count)]
                report(await mesh.beside(_row(client, made.name, count, groups)))


def rules_of(made: Workload, index: int) -> LogitRules:
    """Return the rules that the answer to a workload's prompt has to follow."""
    if not made.schemas:
        return NO_RULES
    return LogitRules(grammar=Grammar("json_schema", made.schemas[index]))


async def _row(
    client: Client, kind: str, count: int, groups: Sequence[Sequence[tuple[str, GenerateOptions]]]
) -> str:
    rates = list[tuple[float, float]]()
    equal = num_texts = 0
    num_rounds = num_steps = num_guesses = num_accepted = 0
    for turn, group in enumerate(groups):
        answers = {}
        # The order alternates from group to group, because a machine's speed drifts.
        for gamma in (None, 0) if turn % 2 else (0, None):
            answers[gamma] = await _together(client, group, gamma)
        auto, plain = answers[None], answers[0]
        rates.append((rate(plain), rate(auto)))
        equal += sum(a.token_ids == b.token_ids for a, b in zip(auto, plain, strict=True))
        num_texts += len(group)
        for figures in (each for answer in auto for each in answer.figures):
            num_rounds += figures.num_rounds
            num_steps += figures.num_plain_steps
            num_guesses += figures.num_draft_tokens
            num_accepted += figures.num_accepted_tokens
    tokens = (num_rounds + num_accepted) / max(1, num_rounds)
    accepted = f"{num_accepted / num_guesses:.2f} of {num_guesses}" if num_guesses else "-"
    share = num_rounds / max(1, num_rounds + num_steps)
    return row(
        *(kind, count, f"{median(plain for plain, _ in rates):.1f}", paired_ratio(rates)),
        *(f"{tokens:.2f} in {share:.2f} of passes", accepted, f"{equal} of {num_texts}"),
    )


def rate(answers: Sequence[Answer]) -> float:
    """Return all answers' tokens/s: tokens after each first one, over the longest answer's time."""
    seconds = max(answer.seconds for answer in answers)
    return sum(len(answer.token_ids) - 1 for answer in answers) / seconds


async def _together(
    client: Client, group: Sequence[tuple[str, GenerateOptions]], gamma: int | None
) -> list[Answer]:
    return await asyncio.gather(
        *(_converse(client, prompt, replace(options, gamma=gamma)) for prompt, options in group)
    )


async def _converse(client: Client, prompt: str, options: GenerateOptions) -> Answer:
    """Send all turns of a user, each with those before it; return their answers joined into one."""
    options = stranger(options)
    messages: list[ChatMessage] = []
    made: list[Answer] = []
    for turn in turns_of(prompt):
        messages.append(ChatMessage("user", turn))
        made.append(await ask(client, tuple(messages), options))
        messages.append(ChatMessage("assistant", made[-1].text))
    return Answer(
        tuple(token_id for answer in made for token_id in answer.token_ids),
        sum(answer.seconds for answer in made),
        tuple(figures for answer in made for figures in answer.figures),
    )


def stranger(options: GenerateOptions) -> GenerateOptions:
    """Return options with an owner that has sent no request before.

    Otherwise a text requested twice would be guessed from its first answer.
    """
    return replace(options, user=f"user-{next(_USERS)}")


async def ask_one(client: Client, prompt: Prompt, options: GenerateOptions) -> Answer:
    """Send one request with an owner of its own, and return its answer."""
    return await ask(client, prompt, stranger(options))


async def ask(client: Client, prompt: Prompt, options: GenerateOptions) -> Answer:
    """Send one request, and return its answer."""
    token_ids: list[int] = []
    text = b""
    first = last = 0.0
    figures = None
    async for event in client.generate(prompt, options):
        if isinstance(event, TokensNotice):
            last = time.perf_counter()
            first = first or last
            token_ids += event.token_ids
            text += event.text
        elif isinstance(event, FinishedNotice):
            figures = event.figures
    assert figures is not None
    decoded = text.decode("utf-8", "replace")
    return Answer(tuple(token_ids), max(1e-9, last - first), (figures,), decoded)
