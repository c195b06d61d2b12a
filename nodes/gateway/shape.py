"""What the answers of all APIs have in common."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Protocol

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.bodies import Body, Hint
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.event_ids import Told
from nodes.gateway.fields import Job

DONE: Final = b"data: [DONE]\n\n"
VERSION: Final = version("airdraft")


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer says of it. num_prompt_tokens: 0 while that is not known."""

    object_id: str
    created_unix: int
    model: str
    fingerprint: str
    num_prompt_tokens: int = 0

    def as_json(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.object_id,
            "object": kind,
            "created": self.created_unix,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def now_unix() -> int:
    return int(time.time())


def named_event(kind: str, data: dict[str, Any]) -> bytes:
    """A server-sent event with a name."""
    text = json.dumps(data, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()


def call_id(head: Head, choice: int, number: int) -> str:
    """Of a call of a function; the same however often the answer is told."""
    of_all = f"{head.object_id}/{choice}/{number}".encode()
    return f"call_{hashlib.sha256(of_all).hexdigest()[:24]}"


def finish_reason(reason: str | None, num_calls: int) -> str | None:
    return "tool_calls" if reason == "stop" and num_calls else reason


@dataclass(slots=True)
class Whole:
    """A choice as it is when all of it is there."""

    texts: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.tokens += delta.tokens
        self.finish_reason = delta.finish_reason

    def as_delta(self) -> Delta:
        """The choice as if all of it had come at once."""
        return Delta(0, "".join(self.texts), (), begins=True, finish_reason=self.finish_reason)


class Shape(Protocol):
    """How one API writes an answer."""

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        """Server-sent events for what was added to one choice.

        told: gives the events their ids, where they are to have some.
        """

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        """The last events of a stream. usage: as answers.Usage writes it."""

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that has begun and goes wrong."""

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, Any]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Api:
    """How an API reads bodies and writes answers.

    prefix: of the ids of its answers. body: what it accepts. summary: what it is for. job: what a
    body asks for, under the limits of whoever asks; raises ApiError naming the field that is wrong.
    """

    prefix: str
    body: type[Body]
    summary: str
    job: Callable[[Any, tuple[Hint, ...], GatewayLimits], Job]
    shape: Callable[[Job], Shape]


class ChunkWriter:
    """Events of one kind for one answer; what is the same in all of them is made once."""

    def __init__(self, kind: str, job: Job) -> None:
        self._kind = kind
        self._job = job
        self._tail = b'],"usage":null}\n\n' if job.include_usage else b"]}\n\n"
        self._prefix = b""

    def choice(self, head: Head, choice: str, tokens: Sequence[ScoredToken] = ()) -> bytes:
        """An event with one choice, given as JSON. tokens: told to who asked for them."""
        told = tokens if self._job.tells_tokens else ()
        if not self._prefix:
            self._prefix = self._start(head) + b',"choices":['
        content = choice.encode()
        if told:
            rows = json.dumps([_row(token) for token in told], separators=(",", ":"))
            content += b'],"airdraft":{"tokens":' + rows.encode() + b"}" + self._tail[1:]
        else:
            content += self._tail
        return self._prefix + content

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        """The counts, if they are wanted and not told yet, and that this is all."""
        if not self._job.include_usage or (told is not None and told.has_usage):
            return DONE
        text = json.dumps(usage, separators=(",", ":"))
        line = b"" if told is None else told.usage_line()
        return (
            line + self._start(head) + b',"choices":[],"usage":' + text.encode() + b"}\n\n" + DONE
        )

    def failed(self, error: ApiError) -> bytes:
        return error.event()

    def _start(self, head: Head) -> bytes:
        text = json.dumps(head.as_json(self._kind), separators=(",", ":"))
        return b"data: " + text.removesuffix("}").encode()


def _row(token: ScoredToken) -> list[object]:
    """Its text, or its bytes where they are none; its kind; its log-probability."""
    chosen = token.scores.chosen
    try:
        piece: object = chosen.piece.decode()
    except UnicodeDecodeError:
        piece = list(chosen.piece)
    return [piece, token.kind, None if token.is_first else round(chosen.logprob, 4)]


def whole_body(
    head: Head, kind: str, choices: list[dict[str, Any]], usage: dict[str, object]
) -> bytes:
    body = {**head.as_json(kind), "choices": choices, "usage": usage}
    return json.dumps(body, separators=(",", ":")).encode()
