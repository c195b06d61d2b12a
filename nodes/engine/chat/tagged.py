"""Calls in which each argument has a tag: texts as they are, and all other values as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, Final
from urllib.parse import unquote

_TYPES: Final = frozenset({"string", "null", "boolean", "number", "integer", "object", "array"})
_TYPE_OF: Final = {str: "string", bool: "boolean", int: "integer", dict: "object", list: "array"}
# Keywords by which a schema may name further arguments.
_OPEN_KEYWORDS: Final = frozenset(
    {"anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas"}
)
# Keywords that restrict nothing.
_ABOUT: Final = frozenset({"title", "description", "default", "examples", "$schema", "deprecated"})
# Deeper schemas and longer chains of references are not followed.
_MAX_DEPTH: Final = 16
# So many schemas are compared with a value: a few alternatives on each level are many together.
_MAX_COMPARED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedForm:
    """The tags of a call, behind the mark <tool_call>. Between them there may be line breaks.

    before_name, after_name: Around the function's name. A line that begins with before_name begins
    a call without its mark, which some models forget. before_key, after_key: Around the name of an
    argument. value_end: Ends a value. has_lines: Whether a value stands in lines of its own; then
    the line breaks around it do not belong to it. end: Ends the call. constants: Other words for
    JSON's, as templates write them that leave this to Python.
    """

    before_name: str = ""
    after_name: str = ""
    before_key: str
    after_key: tuple[str, ...]
    value_end: str
    has_lines: bool = False
    end: tuple[str, ...]
    constants: Mapping[str, str] = field(default_factory=dict)


# <function=weather>, <parameter=city>, Köln, </parameter>, </function> and </tool_call>, each in a
# line of its own: Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5.
QWEN3_CODER: Final = TaggedForm(
    before_name="<function=",
    after_name=">",
    before_key="<parameter=",
    after_key=(">",),
    value_end="</parameter>",
    has_lines=True,
    end=("</function>", "</tool_call>"),
    constants={"True": "true", "False": "false", "None": "null"},
)
# weather<arg_key>city</arg_key><arg_value>Köln</arg_value></tool_call>: GLM 4.5 to 4.7, Laguna,
# Ling 3.0, Spark 2.5.
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

    def __and__(self, other: ValueKind) -> ValueKind:
        types = self.types & other.types
        if "string" not in types:
            return ValueKind(types)
        if self.words is None or other.words is None:
            return ValueKind(types, other.words if self.words is None else self.words)
        known = frozenset(other.words)
        return ValueKind(types, tuple(word for word in self.words if word in known))


ANYTHING: Final = ValueKind()


@dataclass(frozen=True)
class Argument:
    """An argument of a function. declared: Its schema in the document of all schemas."""

    name: str
    declared: Any
    is_required: bool
    schemas: _Schemas = field(repr=False)

    @property
    def schema(self) -> Any:
        """The schema with what it refers to, for a compiler of schemas."""
        return self.schemas.document(self.declared)

    @cached_property
    def kind(self) -> ValueKind:
        """What the schema allows."""
        return self.schemas.kind(self.declared)

    def fits(self, value: Any) -> bool:
        """Whether a value is certainly valid."""
        return self.schemas.fits(value, self.declared)

    def words(self, constants: Mapping[str, str]) -> list[str]:
        """Returns the texts that a value may be, if it is not free, and the constants it may be."""
        fitting = [word for word, known in constants.items() if self.fits(json.loads(known))]
        return [*(self.kind.words or ()), *fitting]

    def json_of(self, written: str, constants: Mapping[str, str]) -> str:
        """Returns the JSON of a value from between its tags. constants: Those of the form.

        What may be any text is one, unless it is certainly valid as something else.
        """
        kind = self.kind
        if not kind.is_text and written not in (kind.words or ()):
            known = constants.get(written, written)
            try:
                value = json.loads(known, parse_constant=_no_constant)
                if self.fits(value) if kind.is_free else _type_of(value) in kind.types:
                    return known
            except (ValueError, RecursionError):
                pass
        return json.dumps(written, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments that a function may be called with.

    named: By their names. others: Those of any other name; None if there may be none.
    """

    named: Mapping[str, Argument]
    others: Argument | None

    def of(self, name: str) -> Argument:
        """Returns the argument of a name that a call has."""
        return self.named.get(name) or self.others or Argument(name, {}, False, _Schemas({}))


def arguments_of(parameters: dict[str, Any]) -> Arguments:
    """Returns the arguments that a schema of parameters names, in its order.

    What is behind a $ref or in allOf counts, too. With other combinations of schemas there may be
    arguments of any other name. Raises ValueError for a schema that tags cannot hold.
    """
    schemas = _Schemas(parameters)
    properties: dict[str, Any] = {}
    required: set[str] = set()
    others: Any = None
    is_open = False
    for part in schemas.parts(parameters):
        declared, wanted = part.get("properties", {}), part.get("required", [])
        if not isinstance(declared, dict) or not isinstance(wanted, list):
            raise ValueError("properties must be an object, and required a list")
        properties |= declared
        required |= {name for name in wanted if isinstance(name, str)}
        others = part.get("additionalProperties", others)
        is_open = is_open or not _OPEN_KEYWORDS.isdisjoint(part)
    for name in sorted(required - properties.keys()):
        properties[name] = {}
    for name in properties:
        if not name or any(letter in name for letter in "<>\n"):
            raise ValueError(f"{name!r} cannot be the name of an argument in this model's calls")
    if others is None:
        others = is_open or not properties
    named = {
        name: Argument(name, declared, name in required, schemas)
        for name, declared in properties.items()
    }
    return Arguments(named, None if others is False else Argument("", others, False, schemas))


class _Schemas:
    """The schemas in one document, in which they refer to each other. Each is looked at and copied
    once, so the work grows with the document and not with the number of its references."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        # The kinds behind references. One that leads to itself allows anything there.
        self._kinds: dict[str, ValueKind] = {}
        self._num_compared = 0
        # What document() returned, by the identity of a schema in the root.
        self._documents: dict[int, Any] = {}

    @cached_property
    def _moved(self) -> _Moved:
        return _Moved()

    def document(self, schema: Any) -> Any:
        """Returns a schema together with what it refers to, directly or not."""
        found = self._followed(schema)
        if not isinstance(found, dict):
            return found
        if id(found) not in self._documents:
            copy, references = self._moved.of(found)
            definitions: dict[str, Any] = {}
            waiting = list(references)
            while waiting:
                name = self._moved.names[reference := waiting.pop()]
                if name not in definitions:
                    definitions[name], more = self._moved.of(self._referred(reference))
                    waiting += more
            self._documents[id(found)] = {**copy, "$defs": definitions} if definitions else copy
        return self._documents[id(found)]

    def parts(self, schema: Any, seen: set[int] | None = None) -> Iterable[dict[str, Any]]:
        """Returns a schema and those in its allOf, which all hold for the same value."""
        found, seen = self._followed(schema), set() if seen is None else seen
        if isinstance(found, dict) and id(found) not in seen:
            seen.add(id(found))
            yield found
            for part in _list(found.get("allOf")):
                yield from self.parts(part, seen)

    def fits(self, value: Any, schema: Any, depth: int = 0) -> bool:
        """Whether a value is valid; False, too, for a schema of which that takes long to say."""
        found = self._followed(schema)
        self._num_compared = self._num_compared + 1 if depth else 0
        if not isinstance(found, dict) or self._num_compared > _MAX_COMPARED or depth == _MAX_DEPTH:
            return found is True
        for keyword, wanted in found.items():
            match keyword:
                case "type":
                    named = _list(wanted) or [wanted]
                    is_fine = _type_of(value) in (
                        *named,
                        *(["integer"] if "number" in named else []),
                    )
                case "enum" | "const":
                    each = _list(wanted) if keyword == "enum" else [wanted]
                    is_fine = any(value == v and _type_of(value) == _type_of(v) for v in each)
                case "anyOf" | "oneOf":
                    is_fine = any(self.fits(value, part, depth + 1) for part in _list(wanted))
                case "allOf":
                    is_fine = all(self.fits(value, part, depth + 1) for part in _list(wanted))
                case "items":
                    items = value if isinstance(value, list) else []
                    is_fine = all(self.fits(item, wanted, depth + 1) for item in items)
                case _:
                    is_fine = keyword in _ABOUT
            if not is_fine:
                return False
        return True

    def kind(self, schema: Any, depth: int = 0) -> ValueKind:
        if not isinstance(schema, dict) or depth == _MAX_DEPTH:
            return ANYTHING
        if isinstance(reference := schema.get("$ref"), str):
            if reference not in self._kinds:
                self._kinds[reference] = ANYTHING
                self._kinds[reference] = self.kind(self._referred(reference), depth + 1)
            return self._kinds[reference]
        kinds = [self.kind(part, depth + 1) for part in _list(schema.get("allOf"))]
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list):
            words = tuple(value for value in values if isinstance(value, str))
            kinds.append(ValueKind(frozenset(map(_type_of, values)), words))
        choices = (parts for name in ("anyOf", "oneOf") if (parts := _list(schema.get(name))))
        kinds += (_either([self.kind(part, depth + 1) for part in parts]) for parts in choices)
        named = schema.get("type")
        types = {name for name in _list(named) or [named] if isinstance(name, str)} & _TYPES
        if types:
            more = {"integer"} if "number" in types else set[str]()
            kinds.append(ValueKind(frozenset(types | more)))
        return reduce(ValueKind.__and__, kinds, ANYTHING)

    def _followed(self, schema: Any) -> Any:
        """Returns the schema that a reference leads to."""
        for _ in range(_MAX_DEPTH):
            if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
                return schema
            schema = self._referred(schema["$ref"])
        return {}

    def _referred(self, reference: str) -> Any:
        """Returns what a reference means (RFC 6901); an empty schema if that is not known."""
        if not reference.startswith("#"):
            return {}
        found: Any = self._root
        for name in reference[1:].split("/")[1:]:
            name = unquote(name).replace("~1", "/").replace("~0", "~")
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return found


class _Moved:
    """Copies of a document's schemas in which each reference leads to a definition of its own.

    names: Those of the definitions, by the references in the document.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        # By the identity of the original, which is kept beside its copy.
        self._made: dict[int, tuple[Any, Any, dict[str, None]]] = {}

    def of(self, value: Any) -> tuple[Any, Collection[str]]:
        """Returns a copy of a schema, and the references in it, each once."""
        if not isinstance(value, dict | list):
            return value, ()
        if (made := self._made.get(id(value))) is None:
            references: dict[str, None] = {}
            if isinstance(value, list):
                copy: Any = [self._part(item, references) for item in value]
            else:
                copy = {name: self._part(item, references) for name, item in value.items()}
                reference = value.get("$ref")
                if isinstance(reference, str) and reference.startswith("#"):
                    name = self.names.setdefault(reference, str(len(self.names)))
                    copy["$ref"] = f"#/$defs/{name}"
                    references[reference] = None
            made = self._made[id(value)] = value, copy, references
        return made[1], made[2]

    def _part(self, value: Any, references: dict[str, None]) -> Any:
        copy, inside = self.of(value)
        references.update(dict.fromkeys(inside))
        return copy


def _either(kinds: list[ValueKind]) -> ValueKind:
    """Returns what is allowed where one of several kinds is enough."""
    types = frozenset[str]().union(*(kind.types for kind in kinds))
    if any(kind.is_free for kind in kinds):
        return ValueKind(types)
    return ValueKind(types, tuple(word for kind in kinds for word in kind.words or ()))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and value.is_integer():
        return "integer"
    return _TYPE_OF.get(type(value), "number")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
