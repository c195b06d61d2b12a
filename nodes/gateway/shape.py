"""What the answers of both APIs have in common."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Protocol

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.resuming import Told

DONE: Final = b"data: [DONE]\n\n"
VERSION: Final = version("airdraft")


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer says of it."""

    object_id: str
    created_unix: int
    model: str
    fingerprint: str

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


class Shape(Protocol):
    """How one API writes an answer."""

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        """Server-sent events for what was added to one choice.

        told: gives the events their ids, where they are to have some.
        """

    def usage_chunk(self, head: Head, usage: dict[str, object]) -> bytes: ...

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, object]) -> bytes: ...


class ChunkWriter:
    """Events of one kind for one answer; what is the same in all of them is made once."""

    def __init__(self, kind: str, *, include_usage: bool) -> None:
        self._kind = kind
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._prefix = b""

    def choice(self, head: Head, choice: str, told: Sequence[ScoredToken] = ()) -> bytes:
        """An event with one choice, given as JSON. told: its tokens, for who asked for them."""
        if not self._prefix:
            self._prefix = self._start(head) + b',"choices":['
        content = choice.encode()
        if told:
            rows = json.dumps([_row(token) for token in told], separators=(",", ":"))
            content += b'],"airdraft":{"tokens":' + rows.encode() + b"}" + self._tail[1:]
        else:
            content += self._tail
        return self._prefix + content

    def usage(self, head: Head, usage: dict[str, object]) -> bytes:
        text = json.dumps(usage, separators=(",", ":"))
        return self._start(head) + b',"choices":[],"usage":' + text.encode() + b"}\n\n"

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
