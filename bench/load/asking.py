"""One streamed chat completion over HTTP, as any client of the OpenAI API would ask for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.load.figures import Asked

_LIMIT_S = 600.0
_USERS = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A system that serves. url: base of its API, up to /v1. extra: what bodies have besides.

    count: tokens of a text, for a system whose answers do not say how many they have.
    may_end_early: it cannot be told to go on at an end of the text: a short answer is no failure.
    """

    url: str
    model: str
    api_key: str = ""
    extra: tuple[tuple[str, Any], ...] = ()
    count: Callable[[str], int] | None = None
    may_end_early: bool = False


async def ask(
    endpoint: Endpoint,
    prompt: str,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    schema: str = "",
    heard: Callable[[], None] = lambda: None,
) -> Asked:
    """Ask for max_tokens tokens, no fewer; every failure is told in the result.

    schema: of JSON that the answer has to follow, which may then be shorter. heard: is called
    whenever text comes. Every request is a user's who has asked for nothing before.
    """
    began = time.perf_counter()
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "stream": True,
        "ignore_eos": not schema,
        "user": f"user-{next(_USERS)}",
        "stream_options": {"include_usage": True},
        **dict(endpoint.extra),
    }
    if schema:
        named = {"name": "answer", "schema": json.loads(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    times: list[float] = []
    texts: list[str] = []
    try:
        async with asyncio.timeout(_LIMIT_S):
            num_told = await _stream(endpoint, body, times, texts, heard)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
        return Asked(began, tuple(times), f"{type(error).__name__}: {error}"[:200])
    if endpoint.count is not None:
        num_told = endpoint.count("".join(texts))
    token_s = _spread(times, texts, num_told)
    may_end_early = endpoint.may_end_early or bool(schema)
    is_short = not token_s or (0 < num_told < max_tokens and not may_end_early)
    return Asked(began, token_s, f"{len(token_s)} of {max_tokens} tokens" if is_short else "")


def _spread(times: list[float], texts: list[str], num_tokens: int) -> tuple[float, ...]:
    """One time a token, where there are fewer events than tokens: those of one event came together.

    An answer says how many tokens it has, but not which event brought how many. Each event has at
    least one, and the rest are shared out by the lengths of their texts.
    """
    spare = num_tokens - len(times)
    if not times or spare <= 0:
        return tuple(times)
    ends = list(itertools.accumulate(len(text.encode()) for text in texts))
    shares = [round(spare * end / ends[-1]) for end in ends]
    counts = [1 + share - before for share, before in zip(shares, [0, *shares], strict=False)]
    return tuple(at for at, count in zip(times, counts, strict=True) for _ in range(count))


async def _stream(
    endpoint: Endpoint,
    body: dict[str, Any],
    times: list[float],
    texts: list[str],
    heard: Callable[[], None],
) -> int:
    """Note when each event with text came, and its text; tokens that the answer says it has.

    Raises ValueError for what is no answer.
    """
    parts = urlsplit(endpoint.url)
    port = parts.port or 80
    reader, writer = await asyncio.open_connection(parts.hostname, port, limit=1 << 20)
    try:
        data = json.dumps(body).encode()
        head = [
            f"POST {parts.path.rstrip('/')}/chat/completions HTTP/1.1",
            f"Host: {parts.hostname}:{port}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            "Connection: close",
            *([f"Authorization: Bearer {endpoint.api_key}"] if endpoint.api_key else []),
        ]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        status = (await reader.readline()).split()
        if len(status) < 2 or status[1] != b"200":
            raise ValueError(f"HTTP status {b' '.join(status[1:]).decode(errors='replace')}")
        num_tokens = 0
        # Chunk sizes and headers are lines of their own, and begin with no "data: ".
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            said = line[6:].strip()
            if said == b"[DONE]":
                break
            event = json.loads(said)
            if "error" in event:
                raise ValueError(f"error event {event['error']}")
            if text := "".join(map(_text_of, event.get("choices") or ())):
                times.append(time.perf_counter())
                texts.append(text)
                heard()
            if event.get("usage"):
                num_tokens = int(event["usage"].get("completion_tokens", 0))
        else:
            raise ValueError("the stream ended without [DONE]")
        return num_tokens
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _text_of(choice: dict[str, Any]) -> str:
    """Of chat's events; some systems answer chats with events of plain completions."""
    delta = choice.get("delta") or {}
    return str(delta.get("content") or delta.get("reasoning_content") or choice.get("text") or "")
