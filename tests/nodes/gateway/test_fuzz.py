"""Bodies of every kind, drawn from the schemas that the gateway publishes of them."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.gateway.app import APIS, TEXT_ROUTES, document
from tests.nodes.gateway.calls import ask
from tests.nodes.gateway.fake_mesh import FakeMesh, Step, finished, started, tokens

POSTS: Final = {**APIS, **TEXT_ROUTES}
SCHEMAS: Final = document({}, POSTS)["components"]["schemas"]
# The statuses that the answer to any body may have.
STATUSES: Final = {200, 400, 404, 413, 415, 429}
# The beginnings of a stream's last event, which may be an error.
ENDS: Final = (
    *(b"data: [DONE]", b'data: {"type": "error"', b"event: error", b"event: message_stop"),
    *(b"event: response.completed", b"event: response.incomplete"),
)
TEXT: Final = st.text(max_size=20)
ANYTHING: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
_SIZES = st.integers(1, 8)
_JSON_SCHEMAS = st.fixed_dictionaries(
    {"type": st.sampled_from(["object", "object", "string", "nothing"])},
    optional={"properties": ANYTHING},
)
# Fields whose schemas permit much that is refused later.
USUAL: Final[dict[str, st.SearchStrategy[Any]]] = {
    "model": st.sampled_from(["", "toy-1", "toy-1", "gpt-4o"]),
    **dict.fromkeys(("n", "max_tokens", "max_completion_tokens", "max_output_tokens"), _SIZES),
    **dict.fromkeys(("schema", "parameters", "input_schema"), _JSON_SCHEMAS),
    "grammar": st.sampled_from(["root ::= [0-9 ]+", 'root ::= "a"', "root ::=", "x"]),
    "logit_bias": st.dictionaries(st.integers(0, 120).map(str), st.floats(-100, 100), max_size=4),
    "name": st.sampled_from(["f", "g", "h", "a b"]),
    "arguments": ANYTHING.map(json.dumps),
}


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Small values that a schema permits."""
    if "$ref" in schema:
        return values(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        # A field that is null is absent.
        return st.one_of([values(each) for each in alternatives if each.get("type") != "null"])
    low, least = schema.get("minimum", 0), schema.get("minItems", 0)
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=20)
        case "integer":
            return st.integers(low, schema.get("maximum", low + 100))
        case "number":
            return st.floats(low, schema["maximum"])
        case "array":
            return st.lists(values(schema["items"]), min_size=least, max_size=least + 2)
    if "properties" not in schema:
        return st.dictionaries(TEXT, ANYTHING, max_size=4)
    return objects(schema, 2)


@st.composite
def objects(draw: st.DrawFn, schema: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Objects with the fields that they need and at most so many of the others."""
    fields = schema["properties"]
    names = draw(st.sets(st.sampled_from(sorted(fields)), max_size=most))
    names |= {*schema.get("required", ()), *({"content"} & fields.keys())}
    return {
        name: draw(USUAL[name] if name in USUAL else values(fields[name])) for name in sorted(names)
    }


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A path and a body; about half of the bodies have one field with any value."""
    path = draw(st.sampled_from(sorted(POSTS)))
    schema = SCHEMAS[POSTS[path].body.__name__]
    body = draw(objects(schema, 5))
    if "stream" in schema["properties"]:
        body["stream"] = draw(st.booleans())
    if draw(st.booleans()):
        body[draw(st.sampled_from(sorted(schema["properties"])) | TEXT)] = draw(ANYTHING)
    return path, body


def script(_prompt: Prompt, options: GenerateOptions) -> Sequence[Step]:
    options.rules.check()
    steps: list[Step] = [started()]
    for choice in range(options.num_choices):
        steps += [tokens("a", 0, choice), finished(1, choice=choice)]
    return steps


@settings(max_examples=int(os.environ.get("AIRDRAFT_FUZZ_BODIES", "150")))
@given(requests() | st.tuples(st.sampled_from(sorted(POSTS)), ANYTHING | st.binary(max_size=60)))
def test_every_body_gets_a_whole_answer_or_an_error_of_the_usual_shape(
    request: tuple[str, Any],
) -> None:
    mesh = FakeMesh(script)
    call = asyncio.run(ask(mesh, *request))
    assert call.status in STATUSES
    if call.status == 200 and call.headers["content-type"].startswith("text/event-stream"):
        last = call.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        assert any(mark in last for mark in ENDS)
    elif call.status == 200:
        assert isinstance(call.json, dict)
    else:
        assert set(call.json["error"]) == {"message", "type", "param", "code"}
    assert mesh.num_open == 0
