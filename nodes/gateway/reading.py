"""Answers as clients read them: what the model thought, its content, and its calls. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from nodes.engine.chat.thinking import CLOSE, OPEN, OPENED
from nodes.gateway.answers import Delta
from nodes.gateway.calls import CallReader, Part, num_begun
from nodes.gateway.fields import Job

REASONING: Final = "reasoning"
CONTENT: Final = "content"
CALL: Final = "call"


@dataclass(slots=True)
class Item:
    """A part of an answer: of one kind, and text throughout. name: of the function that a call is
    of, whose arguments are the text. number: of a call among the answer's calls."""

    kind: str
    name: str = ""
    text: str = ""
    number: int = 0


class Step(NamedTuple):
    """Something that happens to the item of an answer at a place: it `begins`, `grows` by a piece,
    or `ends`."""

    what: str
    place: int
    item: Item
    piece: str = ""


class ItemReader:
    """One choice as a row of items, each of which ends before the next begins."""

    def __init__(self, job: Job) -> None:
        self._readers = Readers(job)
        self.items: list[Item] = []

    @property
    def num_calls(self) -> int:
        return sum(item.kind == CALL for item in self.items)

    def read(self, delta: Delta) -> Iterator[Step]:
        for part in self._readers.parts(delta):
            kind = REASONING if part.reasoning else CONTENT if part.content else CALL
            if not self.items or part.name or self.items[-1].kind != kind:
                yield from self._end()
                self.items.append(Item(kind, part.name, number=part.number))
                yield Step("begins", len(self.items) - 1, self.items[-1])
            if piece := part.reasoning or part.content or part.arguments:
                self.items[-1].text += piece
                yield Step("grows", len(self.items) - 1, self.items[-1], piece)
        if delta.finish_reason is not None:
            yield from self._end()

    def _end(self) -> Iterator[Step]:
        if self.items:
            yield Step("ends", len(self.items) - 1, self.items[-1])


def items_of(job: Job, whole: Delta) -> list[Item]:
    """All of a choice that is there as a whole."""
    reader = ItemReader(job)
    for _ in reader.read(whole):
        pass
    return reader.items


class Readers:
    """Reads the choices of one answer."""

    def __init__(self, job: Job) -> None:
        self._style = job.tool_style
        self._names = job.tools.names if job.tools is not None else frozenset()
        self._thinking = thinking_of(job)
        self._by_choice: dict[int, tuple[ThinkingReader | None, CallReader | None]] = {}

    @property
    def are_needed(self) -> bool:
        """Whether an answer can be anything but content."""
        return bool(self._style or self._thinking)

    def parts(self, delta: Delta) -> list[Part]:
        """What a piece of a choice's text adds."""
        thoughts, calls = self._by_choice.setdefault(delta.index, self._new())
        is_last = delta.finish_reason is not None
        content, parts = delta.text, list[Part]()
        if thoughts is not None:
            reasoning, content = thoughts.read(delta.text, is_last=is_last)
            if reasoning:
                parts.append(Part(reasoning=reasoning))
        if calls is not None:
            parts += calls.read(content, is_last=is_last)
        elif content:
            parts.append(Part(content=content))
        return parts

    def num_calls(self, index: int) -> int:
        """How many calls a choice has begun."""
        _, calls = self._by_choice.get(index, (None, None))
        return 0 if calls is None else calls.num_calls

    def _new(self) -> tuple[ThinkingReader | None, CallReader | None]:
        return (
            ThinkingReader(self._thinking) if self._thinking else None,
            CallReader(self._style, self._names) if self._style else None,
        )


def thinking_of(job: Job) -> str:
    """How the answer to a job thinks: not at all where a grammar holds it to something else."""
    is_held = bool(job.options.rules.grammar.kind)
    if job.tools is not None:
        is_held = job.tools.is_required
    return "" if is_held else job.thinking


class ThinkingReader:
    """Tells what a model thinks from what it answers. kind: as chat.thinking has it."""

    def __init__(self, kind: str) -> None:
        self._is_inside = kind == OPENED
        # Before the first letter of what is thought, or of the answer.
        self._is_at_start = True
        self._is_over = False
        self._waiting = ""

    def read(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """What more text adds to the thoughts, and to the content."""
        if self._is_over and not self._is_at_start:
            return "", text
        self._waiting += text
        reasoning = "".join(self._reasoning(is_last=is_last))
        content = ""
        if self._is_over:
            content = self._waiting.lstrip() if self._is_at_start else self._waiting
            self._waiting = ""
            self._is_at_start = self._is_at_start and not content
        return reasoning, content

    def _reasoning(self, *, is_last: bool) -> Iterator[str]:
        if not self._is_inside and not self._is_over:
            begun = self._waiting.lstrip()
            if begun.startswith(OPEN):
                self._is_inside, self._waiting = True, begun[len(OPEN) :]
            elif is_last or not OPEN.startswith(begun):
                # It does not think: every letter of it is content.
                self._is_over, self._is_at_start = True, False
        if not self._is_inside:
            return
        if self._is_at_start:
            self._waiting = self._waiting.lstrip()
        place = self._waiting.find(CLOSE)
        kept = 0 if is_last else num_begun(CLOSE, self._waiting)
        end = place if place >= 0 else len(self._waiting) - kept
        reasoning, self._waiting = self._waiting[:end], self._waiting[end:]
        self._is_at_start = self._is_at_start and not reasoning
        if place >= 0:
            self._waiting = self._waiting[len(CLOSE) :]
            self._is_inside, self._is_over, self._is_at_start = False, True, True
        if reasoning:
            yield reasoning
