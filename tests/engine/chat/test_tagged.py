"""What stands between tags becomes a value that the schema of the argument allows."""

import json
import re
from typing import Any

import pytest

from airdraft.nodes.engine.chat.tagged import QWEN3_CODER, arguments_of

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        (TEXT, "5", '"5"'),
        ({"type": ["string", "integer"]}, "5", "5"),
        ({"type": ["string", "integer"]}, "2.5", '"2.5"'),
        ({"anyOf": [TEXT, {"type": "null"}]}, "null", "null"),
        ({"anyOf": [TEXT, {"type": "array", "items": TEXT}]}, '["a"]', '["a"]'),
        ({"anyOf": [TEXT, {"type": "array", "items": TEXT}]}, "[1]", '"[1]"'),
        # Whether it is at least 1 is not looked at, so it is a text, which is valid anyway.
        ({"anyOf": [TEXT, {**NUMBER, "minimum": 1}]}, "0", '"0"'),
        ({"anyOf": [TEXT, {"enum": [1, 2]}]}, "7", '"7"'),
        ({"anyOf": [TEXT, {"enum": [1, 2]}]}, "2", "2"),
        ({"enum": ["5", 1]}, "5", '"5"'),
        ({"type": "boolean"}, "true", "true"),
        (NUMBER, "Infinity", '"Infinity"'),
    ],
)
def test_a_value_is_what_its_schema_allows(
    schema: dict[str, Any], written: str, value: str
) -> None:
    found = arguments_of({"properties": {"x": schema}}).of("x")
    assert found.json_of(written, {}) == value


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "boolean"}, ["True", "False"]),
        ({"const": True}, ["True"]),
        ({"enum": ["a", None]}, ["a", "None"]),
        (NUMBER, []),
    ],
)
def test_constants_may_be_written_as_python_does_where_the_schema_allows_them(
    schema: dict[str, Any], words: list[str]
) -> None:
    found = arguments_of({"properties": {"x": schema}}).of("x")
    assert found.words(QWEN3_CODER.constants) == words


def test_schemas_that_lead_to_each_other_many_times_take_no_time() -> None:
    levels = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 4} for i in range(20)}
    loop = {"anyOf": [{"$ref": "#/$defs/loop"}] * 5}
    parameters = {
        "allOf": [{"$ref": "#/$defs/a0"}],
        "properties": {"x": {"$ref": "#/$defs/loop"}},
        "$defs": {**levels, "loop": loop},
    }
    assert arguments_of(parameters).of("x").json_of("1", {}) == '"1"'


def num_parts(schemas: list[Any]) -> int:
    """The number of objects and lists that schemas consist of; what they share counts once."""
    seen: set[int] = set()
    rest = list(schemas)
    while rest:
        part = rest.pop()
        if isinstance(part, dict | list) and id(part) not in seen:
            seen.add(id(part))
            rest += part.values() if isinstance(part, dict) else part
    return len(seen)


@pytest.mark.parametrize("of_each", [{"items": {"$ref": "#/$defs/x"}}, {"$ref": "#/$defs/list"}])
def test_arguments_share_what_they_refer_to(of_each: dict[str, Any]) -> None:
    def made(num_arguments: int) -> int:
        properties = {f"p{i}": dict(of_each) for i in range(num_arguments)}
        defs = {"x": TEXT, "list": {"items": {"$ref": "#/$defs/x"}}}
        found = arguments_of({"properties": properties, "$defs": defs})
        return num_parts([argument.schema for argument in found.named.values()])

    assert made(400) - made(200) == 2 * (made(200) - made(100))


@pytest.mark.parametrize(
    ("declared", "schema"),
    [
        (TEXT, TEXT),
        ({"$ref": "#/$defs/x"}, TEXT),
        ({"items": {"$ref": "#/$defs/x"}}, {"items": {"$ref": "#/$defs/0"}}),
        ({"$ref": "#/$defs/list"}, {"items": {"$ref": "#/$defs/0"}}),
        ({"enum": ["$ref"]}, {"enum": ["$ref"]}),
    ],
)
def test_an_argument_has_the_schemas_that_it_refers_to(
    declared: dict[str, Any], schema: dict[str, Any]
) -> None:
    defs = {"x": TEXT, "list": {"items": {"$ref": "#/$defs/x"}}}
    found = arguments_of({"properties": {"p": declared}, "$defs": defs}).of("p").schema
    assert {name: found[name] for name in schema} == schema
    if "items" in schema:
        assert found["$defs"] == {"0": TEXT}
    else:
        assert found == schema


def test_an_argument_has_no_schemas_that_it_does_not_refer_to() -> None:
    """The grammar of calls has the document of each argument, each with what it needs."""
    loop = {"items": {"anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#/$defs/text"}]}}
    defs = {"loop": loop, "text": TEXT, "other": {"enum": ["x" * 10_000]}}
    properties = {f"p{i}": {"items": {"$ref": "#/$defs/loop"}} for i in range(100)}
    found = arguments_of({"properties": properties, "$defs": defs})
    for argument in found.named.values():
        written = json.dumps(argument.schema)
        assert len(written) < 400
        # The definitions that refer to each other are all there.
        named = set(re.findall(r'"#/\$defs/(\w+)"', written))
        assert named == set(argument.schema["$defs"])
        assert TEXT in argument.schema["$defs"].values()
