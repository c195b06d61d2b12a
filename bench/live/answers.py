"""Requests that decode at the same time, and their joint rate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.speed import stranger
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.messages import FinishedNotice, TokensNotice

SKIPPED_TOKENS = 8


@dataclass(slots=True)
class Together:
    """Answers to prompts sent at once. tokens_per_s: rate of all, while all decode. num_rounds,
    num_plain_steps: passes of streams with and without guesses, as in StreamFigures."""

    tokens_per_s: float = 0.0
    num_rounds: int = 0
    num_plain_steps: int = 0
    num_guesses: int = 0
    num_accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: Together) -> None:
        """Add the counts of another run; its rate is left out."""
        self.num_rounds += other.num_rounds
        self.num_plain_steps += other.num_plain_steps
        self.num_guesses += other.num_guesses
        self.num_accepted += other.num_accepted
        self.reasons += other.reasons

    @property
    def guessing_share(self) -> float:
        """Share of the streams' passes that took guesses."""
        return self.num_rounds / max(1, self.num_rounds + self.num_plain_steps)


async def ask_together(
    client: Client, prompts: Sequence[str], options: GenerateOptions
) -> Together:
    """Send all prompts at once; the rate counts from when all have begun to the first one's end."""
    counts = [0] * len(prompts)
    made = Together()
    began = ended = 0.0
    at_begin = at_end = 0

    async def one(index: int) -> None:
        nonlocal began, ended, at_begin, at_end
        async for event in client.generate(prompts[index], stranger(options)):
            if isinstance(event, FinishedNotice):
                figures = event.figures
                made.num_rounds += figures.num_rounds
                made.num_plain_steps += figures.num_plain_steps
                made.num_guesses += figures.num_draft_tokens
                made.num_accepted += figures.num_accepted_tokens
                if figures.plain_reason and "one token is left" not in figures.plain_reason:
                    made.reasons[figures.plain_reason] += 1
            if not isinstance(event, TokensNotice):
                continue
            counts[index] += len(event.token_ids)
            now = time.perf_counter()
            if not began and min(counts) >= SKIPPED_TOKENS:
                began, at_begin = now, sum(counts)
            if began and not ended and counts[index] == options.max_tokens:
                ended, at_end = now, sum(counts)

    await asyncio.gather(*(one(index) for index in range(len(prompts))))
    made.tokens_per_s = (at_end - at_begin) / max(1e-9, ended - began)
    return made
