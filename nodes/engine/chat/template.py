"""A model's chat template, rendered. It is code of the model file: see nodes/engine/sandbox.

Jinja2's immutable sandbox keeps it from what Python could do; memory and time are bounded by the
process that renders it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nodes.engine.chat.tools import knows_tools, told_as_text
from nodes.engine.protocol import InvalidInputError

MAX_TEXT_CHARS: Final = 1 << 20
_MAX_ERROR_CHARS: Final = 600
# Templates ask whether these are none, which what is not defined is not.
_ABSENT: Final = {"tools": None, "documents": None, "add_generation_prompt": True}
# What a template can raise by what it does; anything else is a fault of ours.
_FAILURES: Final = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class RefusalError(TemplateError):
    """The template itself says what is wrong with a conversation."""


class _Generation(Extension):
    """{% generation %} marks answers for training; here it is what stands between."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One model's template."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        """variables: what the template may use besides the messages, by name.

        Raises InvalidInputError for a template that cannot be compiled.
        """
        self._variables = dict(variables)
        self._knows_tools = knows_tools(text)
        try:
            self._template = _environment().from_string(text)
        except _FAILURES as error:
            raise InvalidInputError(_error_line(error)) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        date: str,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The text of a conversation and of the beginning of its answer.

        messages: with role and content; calls, and what they returned, as OpenAI's API has them,
        but for arguments, which are no text. A template that knows no tools gets them as text.
        date: what the template takes for today, as YYYY-MM-DD; "" where that is not known. The
        node's own clock is not asked, for then the same request would read otherwise tomorrow, or
        on another node. Raises InvalidInputError with one line: what the template objects to, or
        how it fails.
        """
        variables: dict[str, Any] = {**_ABSENT, **self._variables}
        has_tools = tools or any("tool_calls" in m or m["role"] == "tool" for m in messages)
        if has_tools and not self._knows_tools:
            messages, tools = told_as_text(messages, tools), ()
        variables["messages"] = [dict(message) for message in messages]
        if tools:
            variables["tools"] = [dict(tool) for tool in tools]
        try:
            if date:
                variables["strftime_now"] = datetime.fromisoformat(date).strftime
            text = self._rendered(variables)
        except _FAILURES as error:
            raise InvalidInputError(_error_line(error)) from None
        # A template can write halves of characters, which are no text.
        return text.encode(errors="replace").decode()

    def _rendered(self, variables: dict[str, Any]) -> str:
        parts, num_chars = [], 0
        for part in self._template.generate(**variables):
            num_chars += len(part)
            if num_chars > MAX_TEXT_CHARS:
                raise ValueError(f"its text is longer than {MAX_TEXT_CHARS} characters")
            parts.append(part)
        return "".join(parts)


def _refuse(message: object) -> None:
    raise RefusalError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not Jinja2's own filter, which escapes for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment() -> Environment:
    """What templates of model files expect, as Hugging Face's transformers gives it."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    made.globals["raise_exception"] = _refuse
    made.filters["tojson"] = _to_json
    return made


def _error_line(error: BaseException) -> str:
    """One line for the client; the conversation may be quoted in it, so it is logged nowhere."""
    what = "refuses the conversation" if isinstance(error, RefusalError) else "fails"
    why = " ".join(str(error).split()) or type(error).__name__
    line = f"the model's chat template {what}: {why}"[:_MAX_ERROR_CHARS]
    return line.encode(errors="replace").decode()
