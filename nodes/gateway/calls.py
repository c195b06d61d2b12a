"""Reads an answer's text, piece by piece, as content and calls of functions. Pure.

A grammar of calls (engine/tool_rules.py) restricts the text, which may be cut off anywhere. This
module reads what such a text can contain; anything else is content.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from nodes.engine.chat.tools import GAP, HERMES, LLAMA3, MISTRAL

_OPEN: Final = "<tool_call>"
# The beginning of a call, up to the first character of its arguments.
_HEAD: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*', re.DOTALL
)
# A call without its mark: the fence that may precede it, and its beginning.
_FENCE: Final = "```json\n"
_NAMED: Final = re.compile(rf'{GAP}\{{{GAP}"name"{GAP}:{GAP}"([^"]*)"')
# A name has at most 64 characters, which bounds how much text that only resembles a call waits.
_NAMED_PARTS: Final = (GAP, r"\{", GAP, *'"name"', GAP, ":", GAP, '"', '[^"]{0,64}')


def _beginning(parts: tuple[str, ...]) -> str:
    """A regular expression that matches each beginning of the sequence of parts."""
    first, *rest = parts
    return first + (f"(?:{_beginning(tuple(rest))})?" if rest else "")


_NAMED_BEGINNING: Final = re.compile(f"(?:{_beginning(_NAMED_PARTS)})?")


@dataclass(frozen=True, slots=True)
class Part:
    """What a piece of text adds: thoughts, content, the beginning of a call (its name), or its
    arguments. number: the index of the call, from 0."""

    reasoning: str = ""
    content: str = ""
    number: int = 0
    name: str = ""
    arguments: str = ""


class _At(Enum):
    START = auto()
    CONTENT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    BEHIND = auto()
    # No call can come any more.
    REST = auto()


class CallReader:
    """Reads one choice. names: the functions that may be called. has_format: an answer without
    calls follows a JSON schema, so it may look like a call. num_calls: calls begun so far."""

    def __init__(
        self, style: str, names: Collection[str] = (), *, has_format: bool = False
    ) -> None:
        self._style = style
        self._names = names
        self._openings = _openings(style, names) if has_format else ()
        self._at = _At.START
        self._waiting = ""
        self._value = _Value()
        self.num_calls = 0

    def read(self, text: str, *, is_last: bool = False) -> Iterator[Part]:
        """Yield what more text adds. is_last: whether it is the end of the text."""
        self._waiting += text
        before = None
        while self._waiting and before != (self._at, self._waiting):
            before = self._at, self._waiting
            yield from self._step(is_last=is_last)

    def _step(self, *, is_last: bool) -> Iterator[Part]:
        match self._at:
            case _At.START:
                self._start(is_last=is_last)
            case _At.CONTENT:
                if content := self._until_open(is_last=is_last):
                    yield Part(content=content)
            case _At.REST:
                content, self._waiting = self._waiting, ""
                yield Part(content=content)
            case _At.HEAD:
                yield from self._head(is_last=is_last)
            case _At.ARGUMENTS:
                if not self._value.has_begun:
                    self._waiting = self._waiting.lstrip()
                text = self._value.take(self._waiting)
                self._waiting = self._waiting[len(text) :]
                if self._value.is_whole:
                    self._at = _At.BEHIND
                if text:
                    yield Part(number=self.num_calls - 1, arguments=text)
            case _At.BEHIND:
                self._behind(is_last=is_last)

    def _start(self, *, is_last: bool) -> None:
        """Decide by its first characters whether the answer can be or contain a call."""
        text = self._waiting
        if self._openings and not text.startswith(self._openings):
            if is_last or not any(opening.startswith(text) for opening in self._openings):
                self._at = _At.REST
        elif self._style == HERMES:
            is_bare = self._is_bare()
            if is_bare:
                self._waiting = text.removeprefix(_FENCE)
            if is_bare is not None or is_last:
                self._at = _At.HEAD if is_bare else _At.CONTENT
        else:
            # A call is the whole answer, and its first character shows that it is one.
            begins = {LLAMA3: "{", MISTRAL: "["}[self._style]
            self._at = _At.HEAD if text.startswith(begins) else _At.REST
            if self._style == MISTRAL:
                self._waiting = text.removeprefix(begins)

    def _until_open(self, *, is_last: bool) -> str:
        """Read up to and including the next mark of a call; return the text before it."""
        before, self._waiting, is_found = until(_OPEN, self._waiting, is_last=is_last)
        if is_found:
            self._at = _At.HEAD
        return before

    def _is_bare(self) -> bool | None:
        """Whether the answer is a call without its mark; None if that is not known yet."""
        if not self._names:
            return False
        if _FENCE.startswith(self._waiting):
            return None
        text = self._waiting.removeprefix(_FENCE)
        if found := _NAMED.match(text):
            return found[1] in self._names
        return None if _NAMED_BEGINNING.fullmatch(text) else False

    def _head(self, *, is_last: bool) -> Iterator[Part]:
        found = _HEAD.match(self._waiting)
        if found is None:
            if is_last:
                # The text was cut off before the name of the function.
                self._waiting = ""
            return
        self._waiting = self._waiting[found.end() :]
        self._at, self._value = _At.ARGUMENTS, _Value()
        self.num_calls += 1
        yield Part(number=self.num_calls - 1, name=json.loads(found[1]))

    def _behind(self, *, is_last: bool) -> None:
        """Skip the end of a call and what leads to the next one."""
        if self._style == HERMES:
            self._until_open(is_last=is_last)
            return
        comma = self._waiting.find(",") if self._style == MISTRAL else -1
        self._waiting = self._waiting[comma + 1 :] if comma >= 0 else ""
        if comma >= 0:
            self._at = _At.HEAD


def _openings(style: str, names: Collection[str]) -> tuple[str, ...]:
    """How an answer with calls begins where the grammar allows no other text before them."""
    if style == HERMES:
        return (_OPEN,)
    return tuple(f'[{{"name": {json.dumps(name)}, "arguments": ' for name in names)


class _Value:
    """Finds the end of one JSON object."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._is_escaped = False
        self.is_whole = False

    @property
    def has_begun(self) -> bool:
        return self._depth > 0

    def take(self, text: str) -> str:
        """Return the beginning of the text that belongs to the object."""
        for place, letter in enumerate(text):
            if self._in_text:
                if self._is_escaped:
                    self._is_escaped = False
                elif letter == "\\":
                    self._is_escaped = True
                elif letter == '"':
                    self._in_text = False
            elif letter == '"':
                self._in_text = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_whole = True
                    return text[: place + 1]
        return text


def until(mark: str, text: str, *, is_last: bool) -> tuple[str, str, bool]:
    """Split a text at a mark: the text before it, the text after it, and whether it was found. If
    it was not, the second part is an end of the text that may begin the mark. is_last: whether the
    text is complete."""
    before, found, rest = text.partition(mark)
    if found:
        return before, rest, True
    kept = 0
    if not is_last:
        sizes = range(min(len(mark) - 1, len(text)), 0, -1)
        kept = next((size for size in sizes if text.endswith(mark[:size])), 0)
    return text[: len(text) - kept], text[len(text) - kept :], False
