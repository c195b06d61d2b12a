"""Questions about functions, and what comes of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import openai

from bench.tools.functions import FUNCTIONS, fault_of, tools

_QUESTIONS: Final = Path(__file__).with_name("questions.txt")
_LIMIT_S: Final = 600.0
_NONE: Final = "none"
_STORY: Final = "Write a story about {}, in about 300 words."
_TOPICS: Final = ("a lighthouse keeper", "two dogs", "a lost letter", "a winter in the mountains")


@dataclass(frozen=True, slots=True)
class Case:
    """wanted: the function that is right, or none. options: fields of the body."""

    text: str
    wanted: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """name: of the function that was called first, or none. meant: where none was, of the one whose
    call stands in the text as JSON. fault: of the first wrong call."""

    name: str
    meant: str
    calls: tuple[tuple[str, str], ...]
    fault: str


def questions() -> list[Case]:
    """A hundred things that a user says, each with all functions to choose from, drawn greedily."""
    lines = [line for line in _QUESTIONS.read_text().splitlines() if not line.startswith("#")]
    cases = [line.split("|", 1) for line in lines]
    return [Case(text, wanted, {"tool_choice": "auto", "temperature": 0}) for wanted, text in cases]


def calls(count: int) -> list[Case]:
    """The same with a call that must come, of any function and of one by its name in turn; other
    seeds each time round."""
    asked = [case for case in questions() if case.wanted != _NONE]
    made = []
    for number, case in zip(range(count), itertools.cycle(asked), strict=False):
        named = {"type": "function", "function": {"name": case.wanted}}
        choice = named if number % 2 else "required"
        options = {"tool_choice": choice, "temperature": 0.8, "seed": number}
        made.append(Case(case.text, case.wanted, {**options, "parallel_tool_calls": False}))
    return made


async def ask_all(url: str, model: str, cases: Sequence[Case], num_streams: int) -> list[Answer]:
    """Answers in the order of the cases."""
    turns = asyncio.Semaphore(num_streams)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=_LIMIT_S) as client:

        async def one(case: Case) -> Answer:
            async with turns:
                return await _ask(client, model, case)

        return await asyncio.gather(*(one(case) for case in cases))


async def _ask(client: openai.AsyncOpenAI, model: str, case: Case) -> Answer:
    messages = [{"role": "user", "content": case.text}]
    asked: dict[str, Any] = {"model": model, "messages": messages, "tools": tools()}
    found = await client.chat.completions.create(**asked, max_tokens=400, **case.options)
    choice = found.choices[0]
    made = tuple(
        (call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
    )
    fault = next((fault for call in made if (fault := fault_of(*call))), "")
    if not made and case.options["tool_choice"] != "auto":
        fault = f"no call, but {choice.message.content!r}"
    if made and choice.finish_reason != "tool_calls":
        fault = f"it ended with {choice.finish_reason}: {made}"
    name = made[0][0] if made else _NONE
    return Answer(name, name if made else _meant(choice.message.content or ""), made, fault)


def _meant(text: str) -> str:
    """The function whose call a text is, fenced or not."""
    text = text.strip().removeprefix("```json").removesuffix("```")
    try:
        found = json.loads(text)
        return found["name"] if found["name"] in FUNCTIONS else _NONE
    except (ValueError, TypeError, KeyError):
        return _NONE


async def rates(url: str, model: str) -> tuple[float, float]:
    """Tokens a second of one stream of free text where functions could be called, and where the
    same tokens are asked for as plain text, in turns."""
    taken = {True: [0.0, 0.0], False: [0.0, 0.0]}
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=_LIMIT_S) as client:
        for topic in _TOPICS:
            messages: Any = [{"role": "user", "content": _STORY.format(topic)}]
            offered: Any = tools()
            body = {"model": model, "messages": messages, "tools": offered}
            told = await client.post("/../tokenize", body=body, cast_to=dict[str, Any])
            for offers in (True, False):
                # Somebody else each time: what a text repeats of another's is looked up faster.
                common: dict[str, Any] = {"model": model, "max_tokens": 200, "temperature": 0}
                common |= {"user": f"{topic} {offers}", "stream": True}
                common["stream_options"] = {"include_usage": True}
                started = time.perf_counter()
                if offers:
                    stream: Any = await client.chat.completions.create(
                        **common, messages=messages, tools=offered, tool_choice="auto"
                    )
                else:
                    stream = await client.completions.create(**common, prompt=told["tokens"])
                first, count = 0.0, 0
                async for chunk in stream:
                    first = first or time.perf_counter() - started
                    if chunk.usage is not None:
                        count = chunk.usage.completion_tokens
                taken[offers][0] += count - 1
                taken[offers][1] += time.perf_counter() - started - first
    with_tools, without = (tokens / seconds for tokens, seconds in taken.values())
    return with_tools, without
