"""Reads an answer's text as items: thoughts, content and calls of functions. Pure."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from airdraft.nodes.gateway.answers import Delta
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.reading import CALL, TextReader
from airdraft.nodes.gateway.tools import Tools


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
        self._reader = TextReader(
            thinking=job.thinking,
            style=job.tool_style,
            tools=job.tools or Tools(()),
            has_format=job.has_format,
        )
        self.items: list[Item] = []

    def read(self, delta: Delta) -> Iterator[Step]:
        is_last = delta.finish_reason is not None
        for kind, text, name in self._reader.read(delta.text, is_last=is_last):
            if not self.items or name or self.items[-1].kind != kind:
                yield from self._end()
                number = sum(item.kind == CALL for item in self.items)
                self.items.append(Item(kind, name, number=number))
                yield Step("begins", len(self.items) - 1, self.items[-1])
            if text:
                self.items[-1].text += text
                yield Step("grows", len(self.items) - 1, self.items[-1], text)
        if is_last:
            yield from self._end(delta.finish_reason)

    def _end(self, reason: str | None = None) -> Iterator[Step]:
        if self.items:
            yield Step("ends", len(self.items) - 1, self.items[-1], reason=reason)


def items_of(job: Job, whole: Delta) -> list[Item]:
    """The items of a complete choice."""
    reader = ItemReader(job)
    for _ in reader.read(whole):
        pass
    return reader.items


def finish_reason(reason: str | None, items: Iterable[Item]) -> str | None:
    """The reason as the APIs have it: an answer with calls waits for their results, unless a stop
    text has cut off the arguments of one."""
    calls = [item for item in items if item.kind == CALL]
    is_called = bool(calls) and all(call.arguments is not None for call in calls)
    return "tool_calls" if reason == "stop" and is_called else reason
