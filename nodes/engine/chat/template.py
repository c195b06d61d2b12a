"""Renders a model's chat template. It is code from the model file: see nodes/engine/sandbox.

Jinja2's immutable sandbox gives it no access to Python's functions. The process that renders it
limits memory and time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from jinja2 import Environment, TemplateError, UndefinedError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airdraft.nodes.engine.chat.tools import (
    for_style,
    known_style,
    tools_as_text,
    with_descriptions,
    with_users_alone,
)
from airdraft.nodes.engine.protocol import InvalidInputError

MAX_TEXT_CHARS: Final = 1 << 20
_MAX_ERROR_CHARS: Final = 600
# Templates compare these with none, and an undefined variable is not none.
_ABSENT: Final = {"tools": None, "documents": None, "add_generation_prompt": True}
# The errors that a template's code can raise. Any other error is a bug of airdraft.
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
    """The template itself rejects a conversation, with a message."""


class _Generation(Extension):
    """Renders what {% generation %} encloses. The tag marks answers for training."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """The chat template of one model."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        """Compile a template; raises InvalidInputError if this fails.

        variables: The values, by name, that the template may use besides the messages.
        """
        self._variables = dict(variables)
        self._style = known_style(text)
        try:
            self._template = _environment().from_string(text)
        except _FAILURES as error:
            raise InvalidInputError(_error_line(error)) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        date: str,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the text of a conversation and of the beginning of its answer.

        messages: Each has role and content. Calls and their results have the form of OpenAI's API,
        except that arguments are objects and not text. A template without tools gets them as text,
        and one that refuses system messages gets them in messages of the user.
        date: The template's current date as YYYY-MM-DD; "" if unknown. The node's own clock is not
        used, because the prompt of a request would then depend on the day and the node. variables:
        What the request sets; they replace none of the above. Raises InvalidInputError with one
        line: the template's own message, or the error in it.
        """
        known = {**(variables or {}), **_ABSENT, **self._variables}
        reserved = {*self._template.globals, "strftime_now"}
        variables = {name: value for name, value in known.items() if name not in reserved}
        has_tools = tools or any("tool_calls" in m or m["role"] == "tool" for m in messages)
        if has_tools:
            messages = for_style(self._style, messages)
            if not self._style:
                messages, tools = tools_as_text(messages, tools), ()
        if tools:
            variables["tools"] = [dict(tool) for tool in tools]
        try:
            if date:
                variables["strftime_now"] = datetime.fromisoformat(date).strftime
            try:
                text = self._rendered(variables, messages)
            except UndefinedError:
                if not tools:
                    raise
                # gpt-oss' template needs a description of each tool.
                variables["tools"] = with_descriptions(tools)
                text = self._rendered(variables, messages)
            except RefusalError:
                converted = with_users_alone(messages)
                if all(m["role"] != "system" for m in messages) and len(converted) == len(messages):
                    raise
                text = self._rendered(variables, converted)
        except _FAILURES as error:
            raise InvalidInputError(_error_line(error)) from None
        # A template can write half of a surrogate pair, which cannot be encoded.
        return text.encode(errors="replace").decode()

    def _rendered(self, variables: dict[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
        variables["messages"] = [dict(message) for message in messages]
        parts, num_chars = [], 0
        for part in self._template.generate(variables):
            num_chars += len(part)
            if num_chars > MAX_TEXT_CHARS:
                raise ValueError(f"its output is longer than {MAX_TEXT_CHARS} characters")
            parts.append(part)
        return "".join(parts)


def _raise_refusal(message: object) -> None:
    raise RefusalError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja2's own filter escapes for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _environment() -> Environment:
    """Make the environment that templates of model files expect, as transformers does."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    made.globals["raise_exception"] = _raise_refusal
    made.filters["tojson"] = _to_json
    return made


def _error_line(error: BaseException) -> str:
    """Returns one line for the client. It may quote the conversation and must not be logged."""
    what = "refuses the conversation" if isinstance(error, RefusalError) else "fails"
    why = " ".join(str(error).split()) or type(error).__name__
    line = f"the model's chat template {what}: {why}"[:_MAX_ERROR_CHARS]
    return line.encode(errors="replace").decode()
