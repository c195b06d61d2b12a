"""Bodies of requests: valid ones, and ones with something invalid in them."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
RESPONSES: Final = "/v1/responses"
EMBEDDINGS: Final = "/v1/embeddings"
TOKENIZE: Final = "/tokenize"
DETOKENIZE: Final = "/detokenize"
COUNT: Final = "/v1/messages/count_tokens"
_PATHS: Final = (
    *(COMPLETIONS, CHAT, MESSAGES, RESPONSES),
    *(EMBEDDINGS, TOKENIZE, DETOKENIZE, COUNT),
)
# Marks of a stream's last event, which may be an error.
_ENDS: Final = (
    *(b"data: [DONE]", b'data: {"type": "error"', b"event: error", b"event: message_stop"),
    *(b"event: response.completed", b"event: response.incomplete"),
)
# Permitted statuses of the answer to any body.
STATUSES: Final = frozenset({200, 400, 404, 413, 415, 429})

_text = st.text(max_size=20)
_wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=8,
)
_token_ids = st.lists(st.integers(1, 95), min_size=1, max_size=8)
_some_text = st.text(min_size=1, max_size=20)
_formats = [
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}}},
    {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}},
]
# Mostly valid values; _body adds invalid ones.
_COMMON: Final[dict[str, st.SearchStrategy[Any]]] = {
    "model": st.sampled_from(["", "toy-1", "toy-1", "gpt-4o"]),
    "n": st.integers(1, 4),
    "seed": st.integers(0, 2**63 - 1),
    "stop": _some_text | st.lists(_some_text, max_size=8),
    "temperature": st.floats(0, 2) | st.integers(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 200),
    "min_p": st.floats(0, 1),
    "max_tokens": st.integers(1, 8),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 120).map(str), st.floats(-100, 100)),
    "ignore_eos": st.booleans(),
    "priority": st.integers(1, 10),
    "user": _text,
    "grammar": st.sampled_from(["root ::= [0-9 ]+", 'root ::= "a"', "root ::=", "x"]),
    "response_format": st.sampled_from(_formats),
    "airdraft": st.fixed_dictionaries({"tokens": st.booleans()}),
}
_OF_COMPLETIONS: Final = {
    **_COMMON,
    "echo": st.booleans(),
    "logprobs": st.integers(0, 20),
    "prompt": _some_text
    | _token_ids
    | st.lists(_some_text, min_size=1, max_size=3)
    | st.lists(_token_ids, min_size=1, max_size=3),
}
_parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": _some_text}), min_size=1, max_size=3
)
_messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": _some_text | _parts,
        }
    ),
    min_size=1,
    max_size=3,
)
_schema = st.fixed_dictionaries({"type": st.just("object")}, optional={"properties": _wild})
_name = st.sampled_from(["f", "g", "a b", ""])
_function = st.fixed_dictionaries(
    {"name": _name}, optional={"parameters": _schema | _wild, "strict": st.booleans()}
)
_call = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": _name, "arguments": _wild.map(json.dumps)})}
)
_OF_CHAT: Final = {
    **_COMMON,
    "messages": _messages
    | st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["assistant", "tool"]), "content": _some_text},
            optional={"tool_calls": st.lists(_call, max_size=2), "tool_call_id": _text},
        ),
        min_size=1,
        max_size=3,
    ),
    "logprobs": st.booleans(),
    "tools": st.lists(
        st.fixed_dictionaries({"type": st.just("function"), "function": _function}), max_size=2
    ),
    "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function"}]),
}
_SHARED: Final = {name: _COMMON[name] for name in ("model", "seed", "temperature", "top_k", "user")}
_block = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image"])},
    optional={
        "text": _some_text,
        "id": _text,
        "name": _name,
        "input": _schema | _wild,
        "tool_use_id": _text,
        "content": _some_text,
    },
)
_OF_MESSAGES: Final = {
    **_SHARED,
    "max_tokens": st.integers(1, 8),
    "system": _some_text,
    "messages": st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant"]),
                "content": _some_text | st.lists(_block, min_size=1, max_size=3),
            }
        ),
        min_size=1,
        max_size=3,
    ),
    "stop_sequences": st.lists(_text, max_size=9),
    "tools": st.lists(
        st.fixed_dictionaries({"name": _name, "input_schema": _schema | _wild}), max_size=2
    ),
    "tool_choice": st.sampled_from([{"type": "any"}, {"type": "tool"}, {"type": "auto"}]),
}
_item = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["message", "function_call", "function_call_output", "reasoning", None]
        ),
        "role": st.sampled_from(["user", "assistant", "developer"]),
        "content": _some_text,
        "call_id": _text,
        "name": _name,
        "arguments": _wild.map(json.dumps),
        "output": _some_text,
    },
)
_OF_RESPONSES: Final = {
    **_SHARED,
    "max_output_tokens": st.integers(1, 8),
    "instructions": _some_text,
    "input": _some_text | st.lists(_item, min_size=1, max_size=4),
    "tools": st.lists(
        st.fixed_dictionaries(
            {"type": st.just("function"), "name": _name}, optional={"parameters": _wild}
        ),
        max_size=2,
    ),
    "text": st.fixed_dictionaries(
        {"format": st.fixed_dictionaries({"type": st.just("json_schema"), "schema": _schema})}
    ),
    "previous_response_id": _text,
}
_OF_EMBEDDINGS: Final = {
    "input": _OF_COMPLETIONS["prompt"],
    "encoding_format": st.sampled_from(["float", "base64", "x"]),
    "model": _COMMON["model"],
    "user": _text,
}
_OF_TOKENIZE: Final = {"content": _some_text, "messages": _messages, "model": _COMMON["model"]}
_OF_DETOKENIZE: Final = {"tokens": _token_ids, "model": _COMMON["model"]}


@st.composite
def _body(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]], *main: str) -> Any:
    """Draw a body with some fields; in about half of them one field has an arbitrary value."""
    names = draw(st.sets(st.sampled_from(sorted(fields)), max_size=5))
    body = {name: draw(fields[name]) for name in names | set(main)}
    if draw(st.booleans()):
        body["stream"] = True
        body["stream_options"] = {"include_usage": draw(st.booleans())}
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(fields)) | _text)
        body[name] = draw(_wild)
    return body


_json = st.one_of(
    st.tuples(st.just(COMPLETIONS), _body(_OF_COMPLETIONS, "prompt", "max_tokens")),
    st.tuples(st.just(CHAT), _body(_OF_CHAT, "messages", "max_tokens")),
    st.tuples(st.just(MESSAGES), _body(_OF_MESSAGES, "messages", "max_tokens")),
    st.tuples(st.just(COUNT), _body(_OF_MESSAGES, "messages")),
    st.tuples(st.just(RESPONSES), _body(_OF_RESPONSES, "input", "max_output_tokens")),
    st.tuples(st.just(EMBEDDINGS), _body(_OF_EMBEDDINGS, "input")),
    st.tuples(st.just(TOKENIZE), _body(_OF_TOKENIZE)),
    st.tuples(st.just(DETOKENIZE), _body(_OF_DETOKENIZE, "tokens")),
    st.tuples(st.sampled_from(_PATHS), _wild),
)
# Path and bytes of a request.
requests: Final = st.one_of(
    _json.map(lambda pair: (pair[0], json.dumps(pair[1]).encode())),
    st.tuples(st.sampled_from(_PATHS), st.binary(max_size=60)),
)


def fault_of(status: int, content: bytes, *, is_stream: bool) -> str:
    """Return what is wrong with an answer, "" if nothing is."""
    if status not in STATUSES:
        return f"status {status}"
    if is_stream and status == 200:
        last = content.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        return "" if any(mark in last for mark in _ENDS) else "a stream without an end"
    found = json.loads(content)
    if status != 200 and set(found["error"]) != {"message", "type", "param", "code"}:
        return "an error of another shape"
    return ""
