"""A pair of models in a mesh of its own, and requests to it through airdraft's own client."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.config.settings import DraftEngine, EngineSettings, TargetEngine, draft_engine
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.rules import NO_RULES, Grammar, LogitRules
from airdraft.nodes.messages import ChatMessage, FinishedNotice, StreamFigures, TokensNotice
from bench.emulate.replay import PREFIX
from bench.harness.airdraft import register
from bench.load.workloads import Workload, turns_of
from bench.pairs import in_turns

_USERS = itertools.count()
_INSIDE = "inside:"
Requests = Sequence[tuple[str, GenerateOptions]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Models by name or file, or replay:FILE of an emulated device. draft: "" for the catalogue's,
    "none" for none; "inside" or "inside:NAME" for one in the target's process. weights: those of
    the draft, as in EngineSettings."""

    target: str = DEFAULT_TARGET
    draft: str = ""
    looks_up: bool = True
    weights: str = "auto"

    def settings(self) -> tuple[EngineSettings, EngineSettings | None]:
        """Returns the settings of target and draft node (or None), with one thread each.

        If they are emulated, nodes that this process starts can open them from now on.
        """
        if self.target.startswith(PREFIX):
            register()
            emulated = TargetEngine(model=self.target, max_streams=16)
            has_draft = self.draft != "none"
            return emulated, DraftEngine(model=self.draft, max_streams=16) if has_draft else None
        catalog = Catalog(default_cache_dir(environment()))
        path = str(Path(catalog.ensure(self.target)).absolute())
        target = TargetEngine(model=path, max_streams=16, threads=1)
        is_inside = f"{self.draft}:".startswith(_INSIDE)
        given = self.draft.removeprefix("inside").removeprefix(":") if is_inside else self.draft
        name = given or catalog.draft_of(self.target) or DEFAULT_DRAFT
        if name == "none":
            return target, None
        draft = str(Path(catalog.ensure(name)).absolute())
        if is_inside:
            return replace(target, draft=draft, weights=self.weights), None
        return target, replace(draft_engine(target, draft, path), weights=self.weights)


@dataclass(slots=True)
class Taken:
    """What passes took. num_rounds, num_plain_steps: passes of streams with and without guesses, as
    in StreamFigures."""

    num_rounds: int = 0
    num_plain_steps: int = 0
    num_guesses: int = 0
    num_accepted: int = 0

    def add(self, figures: StreamFigures) -> None:
        """Add the figures of a stream."""
        self.num_rounds += figures.num_rounds
        self.num_plain_steps += figures.num_plain_steps
        self.num_guesses += figures.num_draft_tokens
        self.num_accepted += figures.num_accepted_tokens

    @property
    def guessing_share(self) -> float:
        """Share of the streams' passes that took guesses."""
        return self.num_rounds / max(1, self.num_rounds + self.num_plain_steps)

    @property
    def acceptance(self) -> float:
        return self.num_accepted / max(1, self.num_guesses)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a request, or to all those of a conversation. token_s: time of each token, where
    tokens that arrive together have the same time. seconds: from a request's first to its last
    token."""

    token_ids: tuple[int, ...]
    text: str
    figures: tuple[StreamFigures, ...]
    token_s: tuple[float, ...]
    seconds: float


def taken_of(answers: Iterable[Answer]) -> Taken:
    """Returns what the passes of these answers took."""
    taken = Taken()
    for answer in answers:
        for figures in answer.figures:
            taken.add(figures)
    return taken


def requests_of(made: Workload, options: GenerateOptions) -> Requests:
    """Returns the prompts of a workload with options that have the rules of their answers."""
    rules = [LogitRules(grammar=Grammar("json_schema", schema)) for schema in made.schemas]
    both = zip(made.prompts, rules or [NO_RULES] * len(made.prompts), strict=True)
    return [(prompt, replace(options, rules=each)) for prompt, each in both]


def warm_up_of(requests: Requests) -> Requests:
    """Returns the first request, for a short answer."""
    return [(prompt, replace(options, max_tokens=24)) for prompt, options in requests[:1]]


def stranger(options: GenerateOptions) -> GenerateOptions:
    """Returns options with an owner that has sent no request before.

    Otherwise a text requested twice would be guessed from its first answer.
    """
    return replace(options, user=f"user-{next(_USERS)}")


async def ask_one(client: MeshClient, prompt: Prompt, options: GenerateOptions) -> Answer:
    """Send one request with an owner of its own, and return its answer."""
    return await ask(client, prompt, stranger(options))


async def ask(client: MeshClient, prompt: Prompt, options: GenerateOptions) -> Answer:
    """Send one request, and return its answer."""
    token_ids: list[int] = []
    times: list[float] = []
    text = b""
    figures = None
    async for event in client.generate(prompt, options):
        if isinstance(event, TokensNotice):
            times += [time.perf_counter()] * len(event.token_ids)
            token_ids += event.token_ids
            text += event.text
        elif isinstance(event, FinishedNotice):
            figures = event.figures
    assert figures is not None
    seconds = max(1e-9, times[-1] - times[0]) if times else 1e-9
    decoded = text.decode("utf-8", "replace")
    return Answer(tuple(token_ids), decoded, (figures,), tuple(times), seconds)


async def converse(client: MeshClient, prompt: str, options: GenerateOptions) -> Answer:
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
        made[-1].text,
        tuple(figures for answer in made for figures in answer.figures),
        tuple(at for answer in made for at in answer.token_s),
        sum(answer.seconds for answer in made),
    )


async def plain_and_auto(
    client: MeshClient, groups: Sequence[Requests]
) -> list[tuple[list[Answer], ...]]:
    """Answer each group of requests plainly and as planned, in alternating order.

    The requests of a group are sent at once. Returns the plain answers and the others by group.
    """

    async def answers(gamma: int | None, turn: int) -> list[Answer]:
        asked = (converse(client, p, replace(options, gamma=gamma)) for p, options in groups[turn])
        return await asyncio.gather(*asked)

    return await in_turns(len(groups), *(partial(answers, gamma) for gamma in (0, None)))


def rate(answers: Sequence[Answer]) -> float:
    """Returns the tokens/s of answers that were asked for at once.

    The tokens after each first one count, over the time from the first token of any answer to the
    last token of all. For a single answer this is its `seconds`, which leave out what a
    conversation's later turns wait for their first tokens; these do not count either. Returns 0.0
    if no answer has a second token.
    """
    if len(answers) == 1:
        return max(0, len(answers[0].token_ids) - len(answers[0].figures)) / answers[0].seconds
    times = [answer.token_s for answer in answers if answer.token_s]
    began = min((token_s[0] for token_s in times), default=0.0)
    seconds = max((token_s[-1] for token_s in times), default=0.0) - began
    return sum(len(token_s) - 1 for token_s in times) / max(1e-9, seconds)
