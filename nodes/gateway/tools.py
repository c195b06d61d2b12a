"""Functions that an answer may call: from a body of the API to what the mesh is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nodes.engine.rules import MAX_GRAMMAR_CHARS, Grammar
from nodes.gateway.errors import ApiError
from nodes.gateway.schema import (
    Kind,
    boolean,
    compact,
    json_object,
    obj,
    one_of,
    sequence,
    string,
    wrong,
)
from nodes.generation import GenerateOptions

_MAX_TOOLS: Final = 128
_NAME_CHARS: Final = 64
# The whole prompt has no more.
_MAX_ARGUMENT_CHARS: Final = 1 << 18
_NAME_LETTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
)
_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tools:
    """What an answer may call. tools: as the API has them. is_required: it must call something.
    name: the only one that it may call; "" for any. parallel: it may call several.
    """

    tools: tuple[dict[str, Any], ...]
    is_required: bool = False
    name: str = ""
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool["function"]["name"] for tool in self.tools)

    def grammar(self, style: str) -> Grammar:
        """What an answer in this style must be. Raises ApiError where it is too long."""
        functions = [tool["function"] for tool in self.tools]
        chosen = [f for f in functions if not self.name or f["name"] == self.name]
        text = compact(
            {
                "style": style,
                "choice": "required" if self.is_required else "auto",
                "parallel": self.parallel and not self.name,
                "tools": [
                    {"name": f["name"], "parameters": _closed(f.get("parameters"))} for f in chosen
                ],
            }
        )
        if len(text) > MAX_GRAMMAR_CHARS:
            raise wrong(
                "tools",
                f"their schemas have {len(text)} characters, {MAX_GRAMMAR_CHARS} are accepted",
            )
        return Grammar("tools", text)


def _closed(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments that nobody has declared help nobody."""
    schema = parameters or _NO_ARGUMENTS
    if schema.get("type", "object") != "object":
        raise wrong("tools", "parameters are of type object")
    if schema.get("type", "object") == "object" and "properties" in schema:
        return {"additionalProperties": False, **schema}
    return schema


def _name(value: Any, path: str) -> str:
    name: str = string(_NAME_CHARS, 1)(value, path)
    if not _NAME_LETTERS.issuperset(name):
        raise wrong(path, "letters, digits, and one of _ - . are accepted")
    return name


_FUNCTION: Final = obj(
    {
        "name": _name,
        "description": string(1 << 16),
        "parameters": json_object,
        # Arguments are held to their schema either way.
        "strict": boolean,
    },
    required=("name",),
)
TOOLS: Final[Kind] = sequence(
    obj({"type": one_of("function"), "function": _FUNCTION}, required=("type", "function")),
    _MAX_TOOLS,
)
CALLS: Final[Kind] = sequence(
    obj(
        {
            "id": string(256),
            "type": one_of("function"),
            "function": obj(
                {"name": _name, "arguments": string(_MAX_ARGUMENT_CHARS)},
                required=("name", "arguments"),
            ),
        },
        required=("function",),
    ),
    _MAX_TOOLS,
)
_CHOICES: Final = one_of("none", "auto", "required")
_NAMED: Final = obj(
    {"type": one_of("function"), "function": obj({"name": _name}, required=("name",))},
    required=("type", "function"),
)


def choice(value: Any, path: str) -> str | dict[str, Any]:
    """`none`, `auto`, `required`, or the function that is to be called."""
    if isinstance(value, dict):
        named: dict[str, Any] = _NAMED(value, path)
        return named
    word: str = _CHOICES(value, path)
    return word


def tools_of(found: dict[str, Any]) -> Tools | None:
    """What a checked body says of tools; None where nothing may be called.

    Raises ApiError for a choice that its tools do not offer.
    """
    tools, chosen = tuple(found.get("tools", ())), found.get("tool_choice", "auto")
    if not tools and chosen not in ("none", "auto"):
        raise wrong("tool_choice", "there are no tools to choose from")
    if not tools or chosen == "none":
        return None
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise wrong("tools", "each function needs a name of its own")
    name = chosen["function"]["name"] if isinstance(chosen, dict) else ""
    if name and name not in names:
        raise wrong("tool_choice.function.name", f"none of the tools is called {name}")
    return Tools(
        tools,
        is_required=bool(name) or chosen == "required",
        name=name,
        parallel=found.get("parallel_tool_calls", True),
    )


def fields_of(message: dict[str, Any]) -> dict[str, Any]:
    """What the chat template needs of a checked message besides role and content."""
    found: dict[str, Any] = {}
    if message["role"] == "tool":
        found = {key: message[key] for key in ("tool_call_id", "name") if key in message}
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [
            {
                "id": call.get("id", ""),
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": _read(call["function"]["arguments"]),
                },
            }
            for call in calls
        ]
    return found


def _read(arguments: str) -> Any:
    """Templates write arguments as JSON; what is none stays a text."""
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments


def for_template(tools: Tools | None, messages: Sequence[dict[str, Any]]) -> str:
    """What the chat template needs of tools and of checked messages, as the mesh takes it."""
    places = {str(place): fields for place, m in enumerate(messages) if (fields := fields_of(m))}
    if tools is None and not places:
        return ""
    return compact({"tools": tools.tools if tools is not None else (), "messages": places})


def in_style(options: GenerateOptions, tools: Tools, style: str) -> GenerateOptions:
    """The options of a request whose answer is held to what a model of this style writes.

    Raises ApiError where it has no style.
    """
    if not style:
        reason = "the model has no chat template, and so cannot be told of tools"
        raise ApiError(400, f"tools: {reason}", param="tools", code="unsupported_parameter")
    if options.rules.grammar.kind:
        raise wrong("tools", "give either tools or response_format or grammar")
    return replace(options, rules=replace(options.rules, grammar=tools.grammar(style)))
