"""Parts that the answers of all APIs share."""

import hashlib
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any, ClassVar, Final

from airdraft.nodes.gateway.answers import Answers, Delta
from airdraft.nodes.gateway.bodies import Body, compact
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.items import Item, ItemReader, Step, items_of
from airdraft.nodes.gateway.scored import ScoredToken

DONE: Final = b"data: [DONE]\n\n"
VERSION: Final = version("airdraft")
# Of those with most in them, tokens with 21 scores, this takes some 3 ms (2 cores, 2026-12-01).
_ENTRIES_OF_PIECE: Final = 32
# json.dumps() would make an encoder for each event.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def now_unix() -> int:
    return int(time.time())


def encoded(value: dict[str, Any]) -> bytes:
    """A value as JSON in ASCII."""
    return _ENCODER.encode(value).encode()


def list_pieces(values: Iterable[object]) -> Iterator[bytes]:
    """A list as JSON, some entries at a time."""
    rest, separator = iter(values), b"["
    while some := list(islice(rest, _ENTRIES_OF_PIECE)):
        yield separator + _ENCODER.encode(some)[1:-1].encode()
        separator = b","
    yield b"]" if separator == b"," else b"[]"


def named_event(kind: str, **fields: Any) -> bytes:
    """A server-sent event with a name, which is also its field `type`."""
    return f"event: {kind}\ndata: ".encode() + encoded({"type": kind, **fields}) + b"\n\n"


class Shape(ABC):
    """How one API writes an answer."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._job = answers.job

    @abstractmethod
    def chunks(self, delta: Delta) -> bytes:
        """Server-sent events for what was added to one choice."""

    @abstractmethod
    def end(self) -> bytes:
        """The last events of a stream."""

    @abstractmethod
    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that fails after it has begun."""

    @abstractmethod
    def whole(self, choices: Iterable[Delta]) -> Iterator[bytes]:
        """The answer that is not streamed, in pieces that are made in some milliseconds each.

        choices: each as one delta.
        """

    def call_id(self, item: Item, choice: int = 0) -> str:
        """The id of a function call; it is the same each time the answer is written."""
        of_all = f"{self._answers.object_id}/{choice}/{item.number}".encode()
        return f"call_{hashlib.sha256(of_all).hexdigest()[:24]}"


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
    shape: Callable[[Answers], Shape]


class ChunkWriter(Shape):
    """Writes an answer in choices: that of completions and of chats.

    kind, chunk_kind: of a whole answer, and of an event.
    """

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    _head = b""

    def choice(self, choice: dict[str, Any], tokens: Sequence[ScoredToken] = ()) -> bytes:
        """An event with one choice. tokens: added if the body asked for them."""
        more: dict[str, Any] = {}
        if tokens and self._job.tells_tokens:
            more["airdraft"] = {"tokens": [_row(token) for token in tokens]}
        if self._job.include_usage:
            more["usage"] = None
        return self._event([choice], **more)

    def end(self) -> bytes:
        """The end mark, after the usage if it was requested."""
        if not self._job.include_usage:
            return DONE
        return self._event([], usage=self._answers.usage()) + DONE

    def failed(self, error: ApiError) -> bytes:
        return b"data: " + error.content() + b"\n\n"

    def whole(self, choices: Iterable[Delta]) -> Iterator[bytes]:
        yield encoded(self._fields(self.kind))[:-1]
        separator = b',"choices":['
        for choice in choices:
            yield separator + encoded(self.whole_choice(choice))[:-1] + b',"logprobs":'
            if self._job.has_logprobs:
                yield from self.logprobs_pieces(choice.tokens)
            else:
                yield b"null"
            yield b"}"
            separator = b","
        yield b'],"usage":' + encoded(self._answers.usage()) + b"}"

    @abstractmethod
    def whole_choice(self, choice: Delta) -> dict[str, Any]:
        """A choice of an answer that is not streamed, without its log-probabilities."""

    @abstractmethod
    def logprobs_pieces(self, tokens: Sequence[ScoredToken]) -> Iterator[bytes]:
        """The log-probabilities of a choice as JSON."""

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        if not self._head:
            # It is the same in all events, so it is written once.
            self._head = b"data: " + encoded(self._fields(self.chunk_kind)).removesuffix(b"}")
        return self._head + b"," + encoded({"choices": choices, **more})[1:] + b"\n\n"

    def _fields(self, kind: str) -> dict[str, Any]:
        """Fields that every part of an answer repeats."""
        answers = self._answers
        return {
            "id": answers.object_id,
            "object": kind,
            "created": answers.created_unix,
            "model": answers.model,
            "system_fingerprint": answers.fingerprint,
        }


def _row(token: ScoredToken) -> list[object]:
    """A token as [text or list of bytes, kind, log-probability or None]."""
    chosen = token.scores.chosen
    try:
        piece: object = chosen.piece.decode()
    except UnicodeDecodeError:
        piece = list(chosen.piece)
    return [piece, token.kind, None if token.is_first else round(chosen.logprob, 4)]


class ItemShape(Shape):
    """Writes an answer of one choice as items, in an API whose events have names."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers)
        self._reader = ItemReader(self._job)
        self._finish_reason: str | None = None

    def chunks(self, delta: Delta) -> bytes:
        events = self.begun() if delta.begins else b""
        for step in self._reader.read(delta):
            events += b"".join(self.events_of(step))
        self._finish_reason = delta.finish_reason
        return events

    def end(self) -> bytes:
        return self.ended(self.document(self._reader.items, self._finish_reason))

    def whole(self, choices: Iterable[Delta]) -> Iterator[bytes]:
        (choice,) = choices
        items = items_of(self._job, choice)
        yield compact(self.document(items, choice.finish_reason)).encode()

    @abstractmethod
    def begun(self) -> bytes:
        """The events before the first item."""

    @abstractmethod
    def events_of(self, step: Step) -> Iterator[bytes]: ...

    @abstractmethod
    def ended(self, document: dict[str, Any]) -> bytes:
        """The events after the last item. document: the whole answer."""

    @abstractmethod
    def document(self, items: list[Item], reason: str | None) -> dict[str, Any]:
        """The whole answer as JSON."""
