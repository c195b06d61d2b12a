"""One streamed answer over HTTP, requested as any client of the OpenAI API would."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.harness.http import request_of
from bench.load.figures import Asked

_LIMIT_S = 600.0
_USERS = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A system that serves. url: base of its API, up to /v1."""

    url: str
    model: str


async def ask(
    endpoint: Endpoint,
    prompt: str | Sequence[int],
    *,
    max_tokens: int,
    schema: str = "",
    heard: Callable[[], None] = lambda: None,
) -> Asked:
    """Request exactly max_tokens tokens at temperature 0. A failure is in the result, never raised.

    prompt: the message of a chat, or token ids to continue. schema: JSON schema that the answer has
    to follow; the answer may then be shorter. heard: called whenever text arrives. Every request
    has a new user, so that no earlier text helps it.
    """
    began = time.perf_counter()
    body = {
        "model": endpoint.model,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "seed": 1,
        "stream": True,
        "ignore_eos": not schema,
        "user": f"user-{next(_USERS)}",
        "stream_options": {"include_usage": True},
    }
    if isinstance(prompt, str):
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = list(prompt)
    if schema:
        named = {"name": "answer", "schema": json.loads(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    times: list[float] = []
    texts: list[str] = []
    try:
        async with asyncio.timeout(_LIMIT_S):
            num_reported = await _stream(endpoint, body, times, texts, heard)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Asked(began, tuple(times), f"{type(error).__name__}: {error}"[:200])
    token_s = _spread(times, texts, num_reported)
    is_short = not token_s or (0 < num_reported < max_tokens and not schema)
    reason = f"{len(token_s)} of {max_tokens} tokens" if is_short else ""
    return Asked(began, token_s, reason, "".join(texts))


def _spread(times: list[float], texts: list[str], num_tokens: int) -> tuple[float, ...]:
    """Returns one time per token. Tokens of one event have the same time.

    An answer contains its number of tokens, but not that of each event. Each event counts as at
    least one token, and the rest are distributed by the lengths of the events' texts.
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
    """Append time and text of each event with text; return the answer's own count of tokens.

    Raises ValueError if the reply is not a complete answer.
    """
    parts = urlsplit(endpoint.url)
    route = "chat/completions" if "messages" in body else "completions"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    try:
        writer.write(request_of(f"{parts.path}/{route}", body))
        await writer.drain()
        status = (await reader.readline()).split()
        if len(status) < 2 or status[1] != b"200":
            raise ValueError(f"HTTP status {b' '.join(status[1:]).decode(errors='replace')}")
        num_tokens = 0
        # Headers and chunk sizes are separate lines, which do not begin with "data: ".
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            payload = line[6:].strip()
            if payload == b"[DONE]":
                break
            event = json.loads(payload)
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
    """Returns the text of an event; some systems answer chats with events of plain completions."""
    delta = choice.get("delta") or {}
    return str(delta.get("content") or delta.get("reasoning_content") or choice.get("text") or "")
