"""Splits the text of answers into thoughts, content and calls of functions. Pure."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from nodes.engine.metadata import CLOSE, OPEN, OPENED
from nodes.gateway.answers import Delta
from nodes.gateway.bodies import compact
from nodes.gateway.calls import CallReader, Part, until
from nodes.gateway.errors import ApiError
from nodes.gateway.event_ids import Told
from nodes.gateway.fields import Job
from nodes.gateway.shape import Head

REASONING: Final = "reasoning"
CONTENT: Final = "content"
CALL: Final = "call"
# The white space around thoughts that is left out; see BLANK in engine/chat/tools.py.
_BLANKS: Final = " \t\r\n"


@dataclass(slots=True)
class Item:
    """A part of an answer: thoughts, content or a call. For a call, name is the function, text is
    its arguments as JSON, and number is its index among the calls."""

    kind: str
    name: str = ""
    text: str = ""
    number: int = 0

    @property
    def arguments(self) -> Any:
        """The arguments of a call as a value; None if they were cut off."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


class Step(NamedTuple):
    """A change of one item: `what` says that it `begins`, `grows` by a piece, or `ends`. place: the
    item's index in the answer. reason: the finish reason if the answer ends with the item."""

    what: str
    place: int
    item: Item
    piece: str = ""
    reason: str | None = None


class ItemReader:
    """Reads one choice as a sequence of items, each of which ends before the next begins."""

    def __init__(self, job: Job) -> None:
        names = job.tools.names if job.tools is not None else frozenset()
        self._thoughts = ThinkingReader(job.thinking) if job.thinking else None
        self._calls: CallReader | None = None
        if job.tool_style:
            self._calls = CallReader(job.tool_style, names, has_format=job.has_format)
        self.items: list[Item] = []

    def read(self, delta: Delta) -> Iterator[Step]:
        for part in self._parts(delta):
            kind = REASONING if part.reasoning else CONTENT if part.content else CALL
            if not self.items or part.name or self.items[-1].kind != kind:
                yield from self._end()
                self.items.append(Item(kind, part.name, number=part.number))
                yield Step("begins", len(self.items) - 1, self.items[-1])
            if piece := part.reasoning or part.content or part.arguments:
                self.items[-1].text += piece
                yield Step("grows", len(self.items) - 1, self.items[-1], piece)
        if delta.finish_reason is not None:
            yield from self._end(delta.finish_reason)

    def _end(self, reason: str | None = None) -> Iterator[Step]:
        if self.items:
            yield Step("ends", len(self.items) - 1, self.items[-1], reason=reason)

    def _parts(self, delta: Delta) -> Iterator[Part]:
        is_last = delta.finish_reason is not None
        content = delta.text
        if self._thoughts is not None:
            reasoning, content = self._thoughts.read(delta.text, is_last=is_last)
            if reasoning:
                yield Part(reasoning=reasoning)
        if self._calls is not None:
            yield from self._calls.read(content, is_last=is_last)
        elif content:
            yield Part(content=content)


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


def finish_reason(reason: str | None, items: Iterable[Item]) -> str | None:
    """The reason as the APIs have it: an answer with calls waits for their results, unless a stop
    text has cut off the arguments of one."""
    calls = [item for item in items if item.kind == CALL]
    is_called = bool(calls) and all(call.arguments is not None for call in calls)
    return "tool_calls" if reason == "stop" and is_called else reason


def items_of(job: Job, whole: Delta) -> list[Item]:
    """The items of a complete choice."""
    reader = ItemReader(job)
    for _ in reader.read(whole):
        pass
    return reader.items


class _At(Enum):
    START = auto()
    THOUGHTS = auto()
    BETWEEN = auto()
    CONTENT = auto()


class ThinkingReader:
    """Separates a model's thoughts from its answer. kind: one of engine.metadata."""

    def __init__(self, kind: str) -> None:
        self._at = _At.THOUGHTS if kind == OPENED else _At.START
        self._has_thought = False
        self._waiting = ""

    def read(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """Take more text and return what it adds to the thoughts and to the content."""
        self._waiting += text
        reasoning = content = ""
        if self._at is _At.START:
            begun = self._waiting.lstrip(_BLANKS)
            if begun.startswith(OPEN):
                self._at, self._waiting = _At.THOUGHTS, begun.removeprefix(OPEN)
            elif is_last or not OPEN.startswith(begun):
                self._at = _At.CONTENT
        if self._at is _At.THOUGHTS:
            if not self._has_thought:
                self._waiting = self._waiting.lstrip(_BLANKS)
            reasoning, self._waiting, is_over = until(CLOSE, self._waiting, is_last=is_last)
            self._has_thought |= bool(reasoning)
            if is_over:
                self._at = _At.BETWEEN
        if self._at is _At.BETWEEN:
            self._waiting = self._waiting.lstrip(_BLANKS)
            if self._waiting:
                self._at = _At.CONTENT
        if self._at is _At.CONTENT:
            content, self._waiting = self._waiting, ""
        return reasoning, content
