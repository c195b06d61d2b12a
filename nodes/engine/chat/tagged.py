"""Calls in which each argument has a tag: texts as they are, and all other values as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_TYPES: Final = frozenset({"string", "null", "boolean", "number", "object", "array"})
_TYPE_OF: Final = {str: "string", bool: "boolean", dict: "object", list: "array"}
# A longer chain of references is not followed.
_MAX_DEPTH: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedForm:
    """The tags of a call, behind the mark <tool_call>. Between them there may be line breaks.

    before_name, after_name: Around the function's name. A line that begins with before_name begins
    a call without its mark, which some models forget. before_key, after_key: Around the name of an
    argument. value_end: Ends a value. has_lines: Whether a value stands in lines of its own; then
    the line breaks around it do not belong to it. end: Ends the call.
    """

    before_name: str = ""
    after_name: str = ""
    before_key: str
    after_key: tuple[str, ...]
    value_end: str
    has_lines: bool = False
    end: tuple[str, ...]


# <function=weather>, <parameter=city>, Köln, </parameter>, </function> and </tool_call>, each in a
# line of its own: Qwen3-Coder, Qwen 3.5, Nemotron 3.
QWEN3_CODER: Final = TaggedForm(
    before_name="<function=",
    after_name=">",
    before_key="<parameter=",
    after_key=(">",),
    value_end="</parameter>",
    has_lines=True,
    end=("</function>", "</tool_call>"),
)
# weather<arg_key>city</arg_key><arg_value>Köln</arg_value></tool_call>: GLM 4.5 to 4.7, Laguna.
GLM: Final = TaggedForm(
    before_key="<arg_key>",
    after_key=("</arg_key>", "<arg_value>"),
    value_end="</arg_value>",
    end=("</tool_call>",),
)


@dataclass(frozen=True, slots=True)
class ValueKind:
    """What a schema allows. types: JSON's types. words: The only texts; None for any text."""

    types: frozenset[str] = _TYPES
    words: tuple[str, ...] | None = None

    @property
    def is_text(self) -> bool:
        """Whether each value is a text."""
        return self.types == {"string"}

    @property
    def is_free(self) -> bool:
        """Whether it may be any text."""
        return "string" in self.types and self.words is None

    def json_of(self, written: str) -> str:
        """Return the JSON of a value from between its tags."""
        if not self.is_text:
            try:
                value = json.loads(written, parse_constant=_no_constant)
                if _type_of(value) in self.types:
                    return written
            except (ValueError, RecursionError):
                pass
        return json.dumps(written, ensure_ascii=False)


ANYTHING: Final = ValueKind()


def kind_of(schema: Any, parameters: dict[str, Any], depth: int = 0) -> ValueKind:
    """Return what the schema of an argument allows. parameters: The schema that it is part of."""
    if not isinstance(schema, dict) or depth == _MAX_DEPTH:
        return ANYTHING
    if isinstance(reference := schema.get("$ref"), str):
        return kind_of(_referred(reference, parameters), parameters, depth + 1)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        words = tuple(value for value in values if isinstance(value, str))
        return ValueKind(frozenset(map(_type_of, values)), words)
    for name in ("anyOf", "oneOf", "allOf"):
        parts = schema.get(name)
        if isinstance(parts, list) and parts and (name != "allOf" or len(parts) == 1):
            return _joined([kind_of(part, parameters, depth + 1) for part in parts])
    named = schema.get("type")
    names = named if isinstance(named, list) else [named]
    types = {"number" if name == "integer" else name for name in names if isinstance(name, str)}
    return ValueKind(_TYPES & types or _TYPES)


def _joined(kinds: Sequence[ValueKind]) -> ValueKind:
    types = frozenset[str]().union(*(kind.types for kind in kinds))
    if any(kind.is_free for kind in kinds):
        return ValueKind(types)
    return ValueKind(types, tuple(word for kind in kinds for word in kind.words or ()))


def _referred(reference: str, parameters: dict[str, Any]) -> Any:
    found: Any = parameters
    for name in reference.removeprefix("#/").split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _type_of(value: object) -> str:
    return "null" if value is None else _TYPE_OF.get(type(value), "number")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
