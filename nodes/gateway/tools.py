"""Functions that an answer may call: their fields in bodies, and the grammar for the mesh."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.chat.tagged import Arguments, arguments_of
from airdraft.nodes.engine.chat.tools import LLAMA3
from airdraft.nodes.engine.rules import MAX_GRAMMAR_CHARS, Grammar
from airdraft.nodes.gateway.bodies import Body, Object, Text, compact, readable, refusal, wrong
from airdraft.nodes.gateway.errors import ApiError

_MAX_TOOLS: Final = 128
_NAME_CHARS: Final = 64
# The limit of the whole prompt.
_MAX_ARGUMENT_CHARS: Final = 1 << 18
_NAME_LETTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
)
_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}}
# A schema with these keywords alone declares no arguments.
_ABOUT: Final = frozenset({"$schema", "description", "title", "type"})
# The keywords whose schemas all apply to the same object.
_PARTS: Final = ("allOf", "anyOf", "oneOf")


@dataclass(frozen=True)
class Tools:
    """The functions that an answer may call. tools: in the API's form. is_required: the answer must
    call one. name: the only one that it may call; "" for any. parallel: it may call several.
    """

    tools: tuple[dict[str, Any], ...]
    is_required: bool = False
    name: str = ""
    parallel: bool = True
    _arguments: dict[str, Arguments] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The schemas of the functions' arguments, by the functions' names."""
        functions = [tool["function"] for tool in self.tools]
        return {f["name"]: _closed(f.get("parameters")) for f in functions}

    def arguments(self, name: str) -> Arguments:
        """The arguments of a function in calls with tags: the same object for all calls."""
        if name not in self.parameters:
            return arguments_of({})
        if name not in self._arguments:
            self._arguments[name] = arguments_of(self.parameters[name])
        return self._arguments[name]

    def grammar(
        self, style: str, answer: dict[str, Any] | None = None, thinking: str = ""
    ) -> Grammar:
        """The grammar of an answer in this style. answer: the schema of an answer without calls.
        thinking: how the model marks its thoughts before an answer.

        Raises ApiError if the grammar is too long.
        """
        chosen = {
            name: schema
            for name, schema in self.parameters.items()
            if not self.name or name == self.name
        }
        text = compact(
            {
                "style": style,
                "choice": "required" if self.is_required else "auto",
                "parallel": self.parallel and not self.name,
                "tools": [{"name": name, "parameters": schema} for name, schema in chosen.items()],
                **({} if answer is None else {"answer": answer}),
                **({"thinking": thinking} if thinking else {}),
            }
        )
        if len(text) > MAX_GRAMMAR_CHARS:
            raise wrong(
                "tools",
                f"their schemas have {len(text)} characters; at most {MAX_GRAMMAR_CHARS} are "
                f"accepted",
            )
        return Grammar("tools", text)


def _closed(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Close the schema of a function's arguments: undeclared properties are not generated."""
    schema = parameters or _NO_ARGUMENTS
    if schema.get("type", "object") != "object":
        raise wrong("tools", "the type of parameters must be object")
    if schema.keys() <= _ABOUT:
        schema = _NO_ARGUMENTS
    known = _texts(schema.get("properties"))
    # Other keywords may name properties, too, which additionalProperties would rule out.
    if "properties" not in schema or _names_others(schema, known):
        return schema
    return {"additionalProperties": False, **schema}


def _names_others(schema: dict[str, Any], known: frozenset[str]) -> bool:
    """Whether a schema names other properties than the known ones in a part or behind a $ref."""
    named = _texts(schema.get("properties")) | _texts(schema.get("required"))
    parts = [part for kind in _PARTS if isinstance(schema.get(kind), list) for part in schema[kind]]
    others = (_names_others(part, known) for part in parts if isinstance(part, dict))
    return "$ref" in schema or not named <= known or any(others)


def _texts(found: object) -> frozenset[str]:
    """The texts in a list, or the names in an object, of a schema that nobody has checked."""
    entries = found if isinstance(found, list | dict) else ()
    return frozenset(entry for entry in entries if isinstance(entry, str))


def _no_other_letters(name: str) -> str:
    if not _NAME_LETTERS.issuperset(name):
        raise refusal("letters, digits, _, - and . are accepted")
    return name


Name = Annotated[
    Text, Field(min_length=1, max_length=_NAME_CHARS), AfterValidator(_no_other_letters)
]


class Function(Body):
    """strict: has no effect, because arguments always follow their schema."""

    name: Name
    description: Annotated[Text, Field(max_length=1 << 16)] | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class CalledFunction(Body):
    name: Name
    arguments: Annotated[Text, Field(max_length=_MAX_ARGUMENT_CHARS)]


class ToolCall(Body):
    id: Annotated[Text, Field(max_length=256)] | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class NamedFunction(Body):
    name: Name


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


ToolList = Annotated[list[Tool], Field(max_length=_MAX_TOOLS, fail_fast=True)]
CallList = Annotated[list[ToolCall], Field(max_length=_MAX_TOOLS, fail_fast=True)]


def tool_json(
    name: str, description: str | None, parameters: dict[str, Any] | None
) -> dict[str, Any]:
    """A tool in the form of chat completions and of the model's prompt."""
    fields = {"description": description, "parameters": parameters}
    known = {field: value for field, value in fields.items() if value is not None}
    return {"type": "function", "function": {"name": name, **known}}


def named_json(name: str) -> dict[str, Any]:
    """The choice of a tool in the form of chat completions."""
    return {"type": "function", "function": {"name": name}}


def call_json(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    """A call in the form of chat completions, or of chat templates if the arguments are parsed."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def tools_of(
    tools: Sequence[Tool] | None, choice: str | NamedTool | None, *, parallel: bool
) -> Tools | None:
    """The tools of a body; None if the answer may call nothing.

    Raises ApiError for a choice that is not among the tools.
    """
    name = choice.function.name if isinstance(choice, NamedTool) else ""
    if not tools and choice not in (None, "none", "auto"):
        raise wrong("tool_choice", "the body has no tools to choose from")
    if not tools or choice == "none":
        return None
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise wrong("tools", "each function needs a name of its own")
    if name and name not in names:
        raise wrong("tool_choice.function.name", f"no tool has the name {name}")
    return Tools(
        tuple(
            tool_json(tool.function.name, tool.function.description, tool.function.parameters)
            for tool in tools
        ),
        is_required=bool(name) or choice == "required",
        name=name,
        parallel=parallel,
    )


def for_template(
    tools: Tools | None, fields: Mapping[int, dict[str, Any]], variables: Mapping[str, Any]
) -> str:
    """The JSON of SubmitRequest.tools, for the chat template; "" if there is nothing to tell.

    fields: index of a message -> its fields besides role and content. variables: of the template.
    """
    if tools is None and not fields and not variables:
        return ""
    known = {"tools": tools.tools if tools is not None else (), "messages": fields}
    return compact({**known, **({"variables": variables} if variables else {})})


def call_fields(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls in the form of chat templates."""
    return [
        call_json(call.id or "", call.function.name, _read(call.function.arguments))
        for call in calls
    ]


def _read(arguments: str) -> Any:
    """Parse arguments, because templates write them as JSON; invalid ones stay a text."""
    try:
        found = json.loads(arguments) if arguments.strip() else {}
        return readable(found) if isinstance(found, dict) else arguments
    except (ValueError, RecursionError, PydanticCustomError):
        return arguments


def in_style(
    options: GenerateOptions, tools: Tools, style: str, thinking: str = ""
) -> GenerateOptions:
    """Add the grammar that restricts an answer to calls in the model's style.

    style: "" for a model that does not support tools. thinking: how the model marks thoughts, if
    this answer may have some. Raises ApiError for such a model.
    """
    if not style:
        reason = "this model has no chat template and so does not support tools"
        raise ApiError(400, f"tools: {reason}", param="tools", code="unsupported_parameter")
    given, answer = options.rules.grammar, None
    if given.kind == "gbnf":
        raise wrong("tools", "give either tools or a grammar")
    if given.kind and not tools.is_required:
        if style == LLAMA3:
            # The APIs have different names for the format.
            reason = "this model's calls look like JSON: give either this or a format of the answer"
            raise wrong("tools", reason)
        answer = json.loads(given.text)
    grammar = tools.grammar(style, answer, thinking)
    return replace(options, rules=replace(options.rules, grammar=grammar))
