"""An answer's text read as content and calls of functions, piece by piece. Pure.

The text is that of a model that was held to a grammar of calls (engine/tool_rules.py), cut off
anywhere: what is read here is what such a text can be, and what is not stays content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from nodes.engine.chat.tools import HERMES, LLAMA3, MISTRAL

_OPEN: Final = "<tool_call>"
# Up to the first character of the arguments.
_HEAD: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*', re.DOTALL
)
# A call without its mark: what stands before it, and how it begins.
_FENCE: Final = "```json\n"
_NAMED: Final = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]*)"')
# A name has 64 characters at most: text that only looks like a call is not held back for longer.
_NAMED_PARTS: Final = (r"\s*", r"\{", r"\s*", *'"name"', r"\s*", ":", r"\s*", '"', '[^"]{0,64}')


def _beginning(parts: tuple[str, ...]) -> str:
    """A regular expression of what may be the beginning of these parts."""
    first, *rest = parts
    return first + (f"(?:{_beginning(tuple(rest))})?" if rest else "")


_NAMED_BEGINNING: Final = re.compile(f"(?:{_beginning(_NAMED_PARTS)})?")


@dataclass(frozen=True, slots=True)
class Part:
    """What a piece of text adds: thoughts, content, the beginning of a call (its name), or its
    arguments. number: of the call, from 0 on."""

    reasoning: str = ""
    content: str = ""
    number: int = 0
    name: str = ""
    arguments: str = ""


class _At(Enum):
    CONTENT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    BEHIND = auto()


class CallReader:
    """Reads one answer. names: of what may be called. num_calls: that have begun."""

    def __init__(self, style: str, names: Collection[str] = ()) -> None:
        self._style = style
        self._names = names
        self._at = _At.CONTENT
        self._waiting = ""
        self._has_content = False
        self._value = _Value()
        self.num_calls = 0

    def read(self, text: str, *, is_last: bool = False) -> Iterator[Part]:
        """What more text adds; is_last: there is no more of it."""
        self._waiting += text
        before = None
        while self._waiting and before != (self._at, self._waiting):
            before = self._at, self._waiting
            yield from self._step(is_last=is_last)

    def _step(self, *, is_last: bool) -> Iterator[Part]:
        match self._at:
            case _At.CONTENT:
                yield from self._content(is_last=is_last)
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

    def _content(self, *, is_last: bool) -> Iterator[Part]:
        if self._style != HERMES:
            # A call is the whole answer, and begins as nothing else does.
            begins = {LLAMA3: "{", MISTRAL: "["}[self._style]
            if not self._has_content and self._waiting.startswith(begins):
                self._waiting = self._waiting[len(begins) if self._style == MISTRAL else 0 :]
                self._at = _At.HEAD
                return
            self._has_content = True
            content, self._waiting = self._waiting, ""
            yield Part(content=content)
            return
        if not self._has_content:
            is_bare = self._is_bare()
            if is_bare is None and not is_last:
                return
            if is_bare:
                self._waiting = self._waiting.removeprefix(_FENCE)
                self._at = _At.HEAD
                return
        content = self._until_open(is_last=is_last)
        if content:
            self._has_content = True
            yield Part(content=content)

    def _until_open(self, *, is_last: bool) -> str:
        """What stands before the next mark of a call, which is read, too, if it is there."""
        before, self._waiting, is_found = until(_OPEN, self._waiting, is_last=is_last)
        if is_found:
            self._at = _At.HEAD
        return before

    def _is_bare(self) -> bool | None:
        """Whether the answer is a call without its mark; None where that is not known yet."""
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
                # Cut off before anybody could say what is called.
                self._waiting = ""
            return
        self._waiting = self._waiting[found.end() :]
        self._at, self._value = _At.ARGUMENTS, _Value()
        self.num_calls += 1
        yield Part(number=self.num_calls - 1, name=json.loads(found[1]))

    def _behind(self, *, is_last: bool) -> None:
        """What closes a call, and leads to the next."""
        if self._style == HERMES:
            self._until_open(is_last=is_last)
            return
        comma = self._waiting.find(",") if self._style == MISTRAL else -1
        self._waiting = self._waiting[comma + 1 :] if comma >= 0 else ""
        if comma >= 0:
            self._at = _At.HEAD


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
        """As much of a text as belongs to the object."""
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
    """What stands before a mark, what is left behind it, and whether it is there. Where it is not,
    the end of the text that may begin it is left. is_last: no more text comes."""
    before, found, rest = text.partition(mark)
    if found:
        return before, rest, True
    kept = 0
    if not is_last:
        sizes = range(min(len(mark) - 1, len(text)), 0, -1)
        kept = next((size for size in sizes if text.endswith(mark[:size])), 0)
    return text[: len(text) - kept], text[len(text) - kept :], False
