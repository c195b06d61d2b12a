"""Clients that send requests to `airdraft up` while its target is killed, and their results.

Each answer must equal the text of the engine alone for the same token ids, or be a clear 5xx.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from bench.chaos.cases import Case, sampling_of, undisturbed
from bench.chaos.quantiles import spread
from nodes.client.generation import GenerateOptions
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer

if TYPE_CHECKING:
    import openai

REQUEST_LIMIT_S: Final = 120.0
# Pause after a refusal, so that refused clients do not flood the gateway.
_PAUSE_S: Final = 0.2
_MOST_SHOWN: Final = 5


def simple_toy_cases(random: Random, count: int) -> list[Case]:
    """Draw requests with one choice each, greedy or sampled, like those of bench.chaos.fleet.real.

    They are of a toy model and can be sent over HTTP.
    """
    config = ToyConfig()
    model, tokenizer = ToyModel(config), ToyTokenizer(config.num_vocab)
    cases = []
    for _ in range(count):
        ids = tuple(random.randrange(1, config.num_vocab) for _ in range(20))
        options = GenerateOptions(
            max_tokens=random.randrange(24, 400),
            temperature=random.choice((0.0, 0.8)),
            seed=random.randrange(1 << 40),
        )
        sampling = sampling_of(options, 0)
        made = undisturbed(model, tokenizer.piece, ids, sampling, max_tokens=options.max_tokens)
        cases.append(Case(ids, options, (made,)))
    return cases


@dataclass(slots=True)
class Upheaval:
    """Results of a run.

    ready_s: from each kill until the mesh was ready again. answers: counts of right answers, whole
    and streamed. errors: counts of clear 5xx, by status and text. lines: stderr of `up`.
    """

    ready_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        answers = ", ".join(f"{count} {how}" for how, count in sorted(self.answers.items()))
        lines = [
            f"{len(self.ready_s)} kills of the target; ready again after {spread(self.ready_s)}",
            f"{self.answers.total() + self.errors.total()} requests: {self.answers.total()} right "
            f"({answers or 'none'}), {self.errors.total()} ended by a clear 5xx; the longest took "
            f"{self.longest_s:.1f} s",
            *(f"{count} x {what}" for what, count in self.errors.most_common()),
        ]
        if not self.faults:
            return "\n".join([*lines, "0 wrong, 0 cut off, 0 without an end"])
        return "\n".join([*lines, f"WRONG: {len(self.faults)}", *self.faults[:_MOST_SHOWN]])


class Asker:
    """A client that sends one request after another."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        cases: Sequence[Case],
        random: Random,
        found: Upheaval,
        *,
        streams: bool,
    ) -> None:
        self._client = client
        self._model = model
        self._cases = cases
        self._random = random
        self._found = found
        self._streams = streams

    async def run(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            case = self._random.choice(self._cases)
            began = time.perf_counter()
            await self._ask(case)
            took_s = time.perf_counter() - began
            self._found.longest_s = max(self._found.longest_s, took_s)

    async def _ask(self, case: Case) -> None:
        from openai import APIError, APIStatusError

        found, text, reason = self._found, "", None
        num_kills = len(found.ready_s)
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                text, reason = await self._answer(case)
        except APIStatusError as error:
            if error.status_code < 500:
                found.faults.append(f"status {error.status_code}: {error.message}")
            found.errors[f"{error.status_code}: {error.message}"] += 1
            await asyncio.sleep(_PAUSE_S)
            return
        except APIError as error:
            # A stream that has begun has sent its status already; the error's code stands for it.
            if error.code not in ("unavailable", "internal", "deadline"):
                found.faults.append(f"a stream without an end: {type(error).__name__}: {error}")
            found.errors[f"in a stream, {error.code}: {error.message}"] += 1
            return
        except TimeoutError:
            kills = f"kills {num_kills + 1} to {len(found.ready_s)}"
            found.faults.append(f"no end within {REQUEST_LIMIT_S:g} s, during {kills}")
            return
        (expected,) = case.expected
        wanted = expected.text.decode("utf-8", "replace"), expected.finish_reason
        if (text, reason) == wanted:
            found.answers["streamed" if self._streams else "whole"] += 1
        else:
            found.faults.append(f"{text[-40:]!r} ({reason}) instead of {wanted[0][-40:]!r}")

    async def _answer(self, case: Case) -> tuple[str, str | None]:
        """Return the text and the finish reason."""
        options = case.options
        asked: dict[str, Any] = {
            "model": self._model,
            "prompt": list(case.prompt),
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
            "extra_body": {"top_k": options.top_k, "min_p": options.min_p},
        }
        if not self._streams:
            (choice,) = (await self._client.completions.create(**asked)).choices
            return choice.text, choice.finish_reason
        text, reason = "", None
        async for chunk in await self._client.completions.create(**asked, stream=True):
            (choice,) = chunk.choices
            text += choice.text
            reason = choice.finish_reason or reason
        return text, reason
