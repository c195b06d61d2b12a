"""A mesh whose answers a test writes down."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from airdraft.nodes.client.client import Event, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.engine.traits import ModelTraits
from airdraft.nodes.messages import (
    EMBEDDING,
    TEXT,
    ChatMessage,
    FinishedNotice,
    NodeFields,
    NodesReply,
    ReadNotice,
    Score,
    StartedNotice,
    StreamFigures,
    TokenScores,
    TokensNotice,
)
from airdraft.nodes.telemetry.status import Status
from tests.nodes.status_examples import STATUS

MODEL, MODEL_HASH, NUMERICS = "toy-1", "0123456789abcdef", "fedcba9876543210"
THINKING = ModelTraits("hermes", "marked")
FINGERPRINT = "fp_01234567_fedcba98"
# What a script may hold: events, errors to raise, and things to wait for.
Step = Event | Exception | asyncio.Event
# The fixture of that name.
Eventually = Callable[..., "asyncio.Future[None]"]


def started(num_prompt_tokens: int = 3) -> StartedNotice:
    return StartedNotice(
        1, 7, num_prompt_tokens, True, MODEL, "toy-0.8", True, NUMERICS, MODEL_HASH
    )


def tokens(
    text: str | bytes,
    position: int,
    choice: int = 0,
    num_tokens: int = 1,
    scores: tuple[TokenScores, ...] = (),
    drafted: int = 0,
    accepted: int = 0,
) -> TokensNotice:
    raw = text.encode() if isinstance(text, str) else text
    ids = tuple(range(num_tokens))
    return TokensNotice(1, choice, position, raw, ids, drafted, accepted, scores)


def finished(
    num_tokens: int,
    reason: str = "stop",
    choice: int = 0,
    drafted: int = 0,
    accepted: int = 0,
    cached: int = 0,
) -> FinishedNotice:
    figures = StreamFigures(1, 1, drafted, accepted, 0, 0, "", cached)
    return FinishedNotice(1, choice, num_tokens, reason, figures)


def scored(piece: str | bytes, logprob: float, *top: tuple[str, float]) -> TokenScores:
    raw = piece.encode() if isinstance(piece, str) else piece
    best = tuple(Score(10 + i, value, text.encode()) for i, (text, value) in enumerate(top))
    return TokenScores(Score(1, logprob, raw), best)


def text_answer(*texts: str, reason: str = "stop", cached: int = 0) -> list[Step]:
    """One choice whose tokens have these texts."""
    steps: list[Step] = [started()]
    steps += [tokens(text, index) for index, text in enumerate(texts)]
    return [*steps, finished(len(texts), reason, cached=cached)]


def _letters(part: int | ChatMessage) -> str:
    return chr(part) if isinstance(part, int) else part.content


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class FakeMesh:
    """script: the steps of the answer to a prompt with options. models: those of its targets.

    hashes, others: model hashes and traits of single targets, by their names. failures: the errors
    with which reading some texts fails. read_gate: an event that all such reading waits for. asked:
    what was asked for. num_open: requests that have neither ended nor been given up.
    """

    script: Sequence[Step] | Callable[[Prompt, GenerateOptions], Sequence[Step]] = ()
    models: list[str] = field(default_factory=lambda: [MODEL])
    draining: set[str] = field(default_factory=set)
    hashes: dict[str, str] = field(default_factory=dict)
    traits: ModelTraits = field(default_factory=lambda: ModelTraits("hermes"))
    others: dict[str, ModelTraits] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    read_gate: asyncio.Event | None = None
    is_joined: bool = True
    shown: Status | Exception = STATUS
    asked: list[tuple[Prompt, GenerateOptions]] = field(default_factory=list)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    num_status_requests: int = 0
    num_open: int = 0
    num_cancelled: int = 0
    num_node_requests: int = 0

    async def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Event]:
        self.asked.append((prompt, options))
        if options.model not in ("", *self.models):
            raise RequestFailedError("not_found", "no target has that model")
        script = self.script(prompt, options) if callable(self.script) else self.script
        self.num_open += 1
        done = False
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    # As from a queue: others run between two events.
                    await asyncio.sleep(0)
                    yield step
            done = True
        finally:
            self.num_open -= 1
            self.num_cancelled += not done

    async def read(self, prompt: Prompt, options: GenerateOptions, wants: str) -> ReadNotice:
        """A letter is a token, and a text's vector is that of its length."""
        self.asked.append((prompt, options))
        self.is_asked.set()
        if options.model not in ("", *self.models):
            raise RequestFailedError("not_found", "no target has that model")
        text = prompt if isinstance(prompt, str) else "".join(map(_letters, prompt))
        if self.read_gate is not None:
            await self.read_gate.wait()
        if text in self.failures:
            raise self.failures[text]
        ids = tuple(map(ord, text))
        vector = np.array([len(text), 0.5], "<f4").tobytes() if wants == EMBEDDING else b""
        return ReadNotice(
            1, MODEL, MODEL_HASH, ids, text.encode() if wants == TEXT else b"", vector
        )

    async def status(self) -> Status:
        self.num_status_requests += 1
        await asyncio.sleep(0)
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown

    async def nodes(self) -> NodesReply:
        self.num_node_requests += 1
        targets = []
        for number, model in enumerate(self.models):
            name = f"target-{number}"
            traits = self.others.get(name, self.traits)
            model_hash = self.hashes.get(name, MODEL_HASH)
            known = {"model_hash": model_hash, "numerics_class": NUMERICS, "traits": traits}
            is_draining = model in self.draining
            targets.append(NodeFields(name, "target", model, True, False, 0, is_draining, **known))
        draft = NodeFields("draft", "draft", "toy-0.8", True, True, 0)
        return NodesReply(1, (draft, *targets))
