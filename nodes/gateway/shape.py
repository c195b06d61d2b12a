"""Parts that the answers of all APIs share."""

import hashlib
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Protocol

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.bodies import Body, compact
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.event_ids import Told
from nodes.gateway.fields import Job
from nodes.gateway.reading import Item, ItemReader, Step, items_of

DONE: Final = b"data: [DONE]\n\n"
VERSION: Final = version("airdraft")
# json.dumps() would make an encoder for each event.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Head:
    """Fields that every part of an answer repeats. num_prompt_tokens: 0 while it is unknown."""

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


def encoded(value: dict[str, Any]) -> bytes:
    """A value as JSON in ASCII."""
    return _ENCODER.encode(value).encode()


def named_event(kind: str, **fields: Any) -> bytes:
    """A server-sent event with a name, which is also its field `type`."""
    return f"event: {kind}\ndata: ".encode() + encoded({"type": kind, **fields}) + b"\n\n"


def call_id(head: Head, choice: int, number: int) -> str:
    """The id of a function call; it is the same each time the answer is written."""
    of_all = f"{head.object_id}/{choice}/{number}".encode()
    return f"call_{hashlib.sha256(of_all).hexdigest()[:24]}"


class Shape(Protocol):
    """How one API writes an answer."""

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        """Server-sent events for what was added to one choice.

        told: makes the ids of the events; None if they have none.
        """

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        """The last events of a stream. usage: from Answers.usage()."""

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that fails after it has begun."""

    def whole(self, head: Head, choices: Sequence[Delta], usage: dict[str, Any]) -> bytes:
        """The answer at once. choices: each as one delta."""


@dataclass(frozen=True, slots=True)
class Api:
    """How an API reads bodies and writes answers.

    prefix: begins the ids of its answers. body: the model of its bodies. summary: for the OpenAPI
    document. job: turns a body into a job within limits; raises ApiError naming the field that is
    wrong. shape: makes the writer of an answer.
    """

    prefix: str
    body: type[Body]
    summary: str
    job: Callable[[Any, GatewayLimits], Job]
    shape: Callable[[Job], Shape]


class ChunkWriter(ABC):
    """Writes an answer in choices: that of completions and of chats. kind: of a whole answer."""

    def __init__(self, kind: str, job: Job, chunk_kind: str = "") -> None:
        self._kind, self._chunk_kind = kind, chunk_kind or kind
        self._job = job
        self._head = b""

    def choice(
        self, head: Head, choice: dict[str, Any], tokens: Sequence[ScoredToken] = ()
    ) -> bytes:
        """An event with one choice. tokens: added if the body asked for them."""
        more: dict[str, Any] = {}
        if tokens and self._job.tells_tokens:
            more["airdraft"] = {"tokens": [_row(token) for token in tokens]}
        if self._job.include_usage:
            more["usage"] = None
        return self._event(head, [choice], **more)

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        """The end mark, after the usage if it was requested and not sent before."""
        if not self._job.include_usage or (told is not None and told.has_usage):
            return DONE
        line = b"" if told is None else told.usage_line()
        return line + self._event(head, [], usage=usage) + DONE

    def failed(self, error: ApiError) -> bytes:
        return b"data: " + error.content() + b"\n\n"

    def whole(self, head: Head, choices: Sequence[Delta], usage: dict[str, Any]) -> bytes:
        written = [self.whole_choice(head, choice) for choice in choices]
        return encoded({**head.as_json(self._kind), "choices": written, "usage": usage})

    @abstractmethod
    def whole_choice(self, head: Head, choice: Delta) -> dict[str, Any]:
        """A choice of an answer that is not streamed."""

    def _event(self, head: Head, choices: list[dict[str, Any]], **more: Any) -> bytes:
        if not self._head:
            # It is the same in all events, so it is written once.
            self._head = b"data: " + encoded(head.as_json(self._chunk_kind)).removesuffix(b"}")
        return self._head + b"," + encoded({"choices": choices, **more})[1:] + b"\n\n"


def _row(token: ScoredToken) -> list[object]:
    """A token as [text or list of bytes, kind, log-probability or None]."""
    chosen = token.scores.chosen
    try:
        piece: object = chosen.piece.decode()
    except UnicodeDecodeError:
        piece = list(chosen.piece)
    return [piece, token.kind, None if token.is_first else round(chosen.logprob, 4)]


class ItemShape(ABC):
    """Writes an answer of one choice as items, in an API whose events have names."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._reader = ItemReader(job)
        self._finish_reason: str | None = None

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        events = self.begun(head) if delta.begins else b""
        for step in self._reader.read(delta):
            events += b"".join(self.events_of(head, step))
        self._finish_reason = delta.finish_reason
        return events

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        document = self.document(head, self._reader.items, self._finish_reason, usage)
        return self.ended(document)

    def whole(self, head: Head, choices: Sequence[Delta], usage: dict[str, Any]) -> bytes:
        (choice,) = choices
        items = items_of(self._job, choice)
        return compact(self.document(head, items, choice.finish_reason, usage)).encode()

    @abstractmethod
    def begun(self, head: Head) -> bytes:
        """The events before the first item."""

    @abstractmethod
    def events_of(self, head: Head, step: Step) -> Iterator[bytes]: ...

    @abstractmethod
    def ended(self, document: dict[str, Any]) -> bytes:
        """The events after the last item. document: the whole answer."""

    @abstractmethod
    def document(
        self, head: Head, items: list[Item], reason: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        """The whole answer as JSON."""

    @abstractmethod
    def failed(self, error: ApiError) -> bytes: ...
