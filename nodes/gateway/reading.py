"""Splits an answer's text, piece by piece, into thoughts, content and calls of functions. Pure.

A grammar of calls (engine/tool_rules.py) restricts the text, which may be cut off anywhere. This
module reads what such a text can contain; anything else is content.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator
from typing import Final, NamedTuple

from airdraft.nodes.engine.chat.tagged import Argument, TaggedForm
from airdraft.nodes.engine.chat.tools import (
    CALLED,
    CALLING,
    CHANNELS,
    GAP,
    HERMES,
    LLAMA3,
    TAGGED,
    TO_FUNCTION,
)
from airdraft.nodes.engine.metadata import (
    CHANNEL,
    CLOSE,
    END,
    HARMONY,
    MESSAGE,
    OPEN,
    OPENED,
    START,
)
from airdraft.nodes.gateway.tools import Tools

REASONING: Final = "reasoning"
CONTENT: Final = "content"
CALL: Final = "call"
# The white space around thoughts that is left out; see BLANK in engine/chat/tools.py.
_BLANKS: Final = " \t\r\n"
_CALL_MARK: Final = "<tool_call>"
# The beginning of a call, up to the first character of its arguments.
_HEAD: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*', re.DOTALL
)
# The header of a message in a channel that calls a function.
_CALLING: Final = re.compile(rf"{CALLING}(?P<name>[^\s<]+){CALLED}")
# A call without its mark: the fence that may precede it, and its beginning.
_FENCE: Final = "```json\n"
_NAMED: Final = re.compile(rf'{GAP}\{{{GAP}"name"{GAP}:{GAP}"([^"]*)"')
_NAMED_START: Final = '{"name":"'
# How much text waits that only resembles such a call: four gaps, and a name of 64 characters.
_MOST_WAITING: Final = 160
_NO_TOOLS: Final = Tools(())


class Part(NamedTuple):
    """What a piece of text adds to an answer. kind: thoughts, content or a call. A call begins with
    a part that has the name of its function; the others add to its arguments."""

    kind: str
    text: str = ""
    name: str = ""


# What has been read so far; None where a parser needs more text. It returns whether it has found
# what it looked for.
_Parser = Generator[Part | None, None, bool]


class TextReader:
    """Reads one choice. The parser stops where it needs more text, and goes on when that is there.

    thinking, style, has_format: as in Job. tools: the functions that may be called.
    """

    def __init__(
        self,
        *,
        thinking: str = "",
        style: str = "",
        tools: Tools = _NO_TOOLS,
        has_format: bool = False,
    ) -> None:
        self._tools = tools
        self._waiting = ""
        self._is_last = False
        self._parser = self._all(thinking, style, has_format=has_format)

    def read(self, text: str, *, is_last: bool = False) -> Iterator[Part]:
        """Yield what more text adds. is_last: whether it is the end of the text."""
        self._waiting += text
        self._is_last = is_last
        for part in self._parser:
            if part is None:
                return
            yield part

    def _all(self, thinking: str, style: str, *, has_format: bool) -> _Parser:
        calls_in_channels = style == CHANNELS
        if thinking == HARMONY or calls_in_channels:
            yield from self._channels(has_calls=calls_in_channels)
        elif thinking:
            yield from self._thoughts(thinking)
        has_calls = bool(style) and not calls_in_channels
        if has_calls and has_format:
            # An answer without calls follows a JSON schema, so it may look like a call.
            has_calls = yield from self._begins_with(_openings(style, self._tools.parameters))
        if has_calls:
            if form := TAGGED.get(style):
                yield from self._tagged_calls(form)
            else:
                yield from self._marked_calls() if style == HERMES else self._unmarked_calls(style)
        while True:
            content, self._waiting = self._waiting, ""
            if content:
                yield Part(CONTENT, content)
            yield None

    def _thoughts(self, kind: str) -> _Parser:
        """Read thoughts and the white space around them. kind: one of engine.metadata."""
        if kind != OPENED:
            while not (begun := self._waiting.lstrip(_BLANKS)).startswith(OPEN):
                if self._is_last or not OPEN.startswith(begun):
                    return False
                yield None
            self._waiting = begun.removeprefix(OPEN)
        yield from self._skip_blanks()
        yield from self._until(CLOSE, kind=REASONING)
        return (yield from self._skip_blanks())

    def _channels(self, *, has_calls: bool) -> _Parser:
        """Read messages of channels: all of them, or thoughts up to the first other one if none
        can be a call."""
        if not (yield from self._begins_with((CHANNEL, START, TO_FUNCTION))):
            return False
        is_first, mark = True, ""
        while True:
            while MESSAGE not in self._waiting:
                if self._is_last:
                    # The text was cut off in the name of a channel.
                    self._waiting = ""
                    return False
                yield None
            header, _, self._waiting = self._waiting.partition(MESSAGE)
            kind = REASONING if "analysis" in header else CONTENT
            # A header that was broken off may stand before that of the message.
            _, begun, header = (mark + header).rpartition(START)
            called = None
            if has_calls and (header.startswith("assistant") if begun else is_first):
                called = _CALLING.fullmatch(header.removeprefix("assistant" if begun else ""))
            if called is not None and called["name"] in self._tools.parameters:
                kind = ""
                yield Part(CALL, name=called["name"])
                yield from self._arguments()
            elif kind == CONTENT and not has_calls:
                return True
            if not (mark := (yield from self._until(START, END, kind=kind))):
                return False
            is_first, mark = False, START if mark == START else ""

    def _marked_calls(self) -> _Parser:
        """Read calls that have marks, content before the first, and a first call without one."""
        kind = CONTENT
        if (yield from self._begins_with_call()):
            yield from self._call()
            kind = ""
        while (yield from self._until(_CALL_MARK, kind=kind)):
            yield from self._call()
            kind = ""
        return True

    def _tagged_calls(self, form: TaggedForm) -> _Parser:
        """Read calls with tags, and content before the first."""
        loose = (form.before_name,) if form.before_name else ()
        kind = CONTENT
        if loose and (yield from self._begins_with(loose)):
            yield from self._tagged_call(form)
            kind = ""
        while (yield from self._until(_CALL_MARK, *(f"\n{m}" for m in loose), kind=kind)):
            yield from self._tagged_call(form)
            kind = ""
        return True

    def _unmarked_calls(self, style: str) -> _Parser:
        """Read calls that are the whole answer, which its first character shows."""
        if not (yield from self._begins_with((("{" if style == LLAMA3 else "["),))):
            return False
        if style != LLAMA3:
            self._waiting = self._waiting[1:]
        yield from self._call()
        while (yield from self._until(",")):
            yield from self._call()
        return True

    def _call(self) -> _Parser:
        """Read the name and the arguments of a call."""
        if (found := (yield from self._matched(_HEAD))) is None:
            return False
        yield Part(CALL, name=json.loads(found[1]))
        return (yield from self._arguments())

    def _tagged_call(self, form: TaggedForm) -> _Parser:
        """Read the name and the arguments of a call with tags."""
        before, after = re.escape(form.before_name), re.escape(form.after_name)
        head = re.compile(rf"\s*(?:{before})?([^\s<>]+)(?=[\n<>]){after}")
        if (found := (yield from self._matched(head))) is None:
            return False
        yield Part(CALL, name=found[1])
        keyed, end = ("\n?".join(map(re.escape, tags)) for tags in (form.after_key, form.end))
        begins = rf"\n?{re.escape(form.before_key)}([^<>\n]+){keyed}"
        if form.has_lines:
            begins += r"(?:\n|(?=[^\n]))"
        next_part = re.compile(rf"{begins}|\n?{end}")
        arguments = self._tools.arguments(found[1])
        separator = "{"
        while found := (yield from self._matched(next_part)):
            if not (key := found[1]):
                yield Part(CALL, "{}" if separator == "{" else "}")
                return True
            yield Part(CALL, f"{separator}{json.dumps(key)}: ")
            separator = ", "
            yield from self._tagged_value(form, arguments.of(key))
        return False

    def _tagged_value(self, form: TaggedForm, argument: Argument) -> _Parser:
        """Read a value and its end. A text is yielded as it comes, since it may be a file."""
        marks, kind = [form.value_end], argument.kind
        if form.has_lines:
            marks.append(f"\n{form.value_end}")
        if kind.is_text:
            yield Part(CALL, '"')
        written = ""
        while True:
            text, found = self._up_to(*marks)
            if kind.is_text and text:
                yield Part(CALL, json.dumps(text, ensure_ascii=False)[1:-1])
            written += text
            if found:
                yield Part(CALL, '"' if kind.is_text else argument.json_of(written, form.constants))
            if found or self._is_last:
                return bool(found)
            yield None

    def _arguments(self) -> _Parser:
        """Read one JSON object."""
        depth, in_text, is_escaped = 0, False, False
        while True:
            text = self._waiting if depth else self._waiting.lstrip()
            for place, letter in enumerate(text, 1):
                if is_escaped:
                    is_escaped = False
                elif in_text and letter == "\\":
                    is_escaped = True
                elif letter == '"':
                    in_text = not in_text
                elif not in_text and letter in "{[":
                    depth += 1
                elif not in_text and letter in "}]":
                    depth -= 1
                    if depth == 0:
                        self._waiting = text[place:]
                        yield Part(CALL, text[:place])
                        return True
            self._waiting = ""
            if text:
                yield Part(CALL, text)
            if self._is_last:
                return False
            yield None

    def _begins_with_call(self) -> _Parser:
        """Returns whether the answer is a call without its mark. Skips the fence before it."""
        while self._tools.parameters:
            text = self._waiting.removeprefix(_FENCE)
            if found := _NAMED.match(text):
                if found[1] not in self._tools.parameters:
                    return False
                self._waiting = text
                return True
            dense = "".join(text.split())
            may_be = dense.startswith(_NAMED_START) or _NAMED_START.startswith(dense)
            is_short = len(text) < _MOST_WAITING
            if self._is_last or not (is_short and (may_be or _FENCE.startswith(text))):
                return False
            yield None
        return False

    def _begins_with(self, openings: tuple[str, ...]) -> _Parser:
        """Returns whether the text begins with one of these."""
        while not self._waiting.startswith(openings):
            if self._is_last or not any(each.startswith(self._waiting) for each in openings):
                return False
            yield None
        return True

    def _matched(self, pattern: re.Pattern[str]) -> Generator[None, None, re.Match[str] | None]:
        """Read what matches, and return the match; None if the text was cut off in it."""
        while (found := pattern.match(self._waiting)) is None:
            if self._is_last:
                self._waiting = ""
                return None
            yield None
        self._waiting = self._waiting[found.end() :]
        return found

    def _until(self, *marks: str, kind: str = "") -> Generator[Part | None, None, str]:
        """Read the text before the first of some marks, skip the mark, and return it; "" if none
        came.

        kind: of the text; "" skips it, too.
        """
        while True:
            text, found = self._up_to(*marks)
            if self._is_last and not found:
                text, self._waiting = text + self._waiting, ""
            if kind and text:
                yield Part(kind, text)
            if found or self._is_last:
                return found
            yield None

    def _up_to(self, *marks: str) -> tuple[str, str]:
        """Take the text before the first of some marks, and that mark; "" if none is complete."""
        text = self._waiting
        places = ((place, mark) for mark in marks if (place := text.find(mark)) >= 0)
        place, found = min(places, default=(len(text), ""))
        if not found:
            # An end of the text may be the beginning of a mark.
            place -= max(n for m in marks for n in range(len(m)) if text.endswith(m[:n]))
        self._waiting = text[place + len(found) :]
        return text[:place], found

    def _skip_blanks(self) -> _Parser:
        while not (rest := self._waiting.lstrip(_BLANKS)) and not self._is_last:
            yield None
        self._waiting = rest
        return True


def _openings(style: str, names: Iterable[str]) -> tuple[str, ...]:
    """How an answer with calls begins where the grammar allows no other text before them."""
    if style == HERMES or style in TAGGED:
        return (_CALL_MARK,)
    return tuple(f'[{{"name": {json.dumps(name)}, "arguments": ' for name in names)
