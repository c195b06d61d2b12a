"""Bodies of requests, right ones and ones that are wrong in some place."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
# What an answer to any body may have for a status.
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
# Right values, but for a few: what is wrong comes by _body.
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
    "tools": st.just([]),
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
_OF_CHAT: Final = {**_COMMON, "messages": _messages, "logprobs": st.booleans()}


@st.composite
def _body(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]], main: str) -> Any:
    """A body with some fields; in every second one anything at all stands somewhere."""
    names = draw(st.sets(st.sampled_from(sorted(fields)), max_size=5))
    body = {name: draw(fields[name]) for name in names | {main, "max_tokens"}}
    if draw(st.booleans()):
        body["stream"] = True
        body["stream_options"] = {"include_usage": draw(st.booleans())}
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(fields)) | _text)
        body[name] = draw(_wild)
    return body


_json = st.one_of(
    st.tuples(st.just(COMPLETIONS), _body(_OF_COMPLETIONS, "prompt")),
    st.tuples(st.just(CHAT), _body(_OF_CHAT, "messages")),
    st.tuples(st.sampled_from([COMPLETIONS, CHAT]), _wild),
)
# Path and bytes of a request.
requests: Final = st.one_of(
    _json.map(lambda pair: (pair[0], json.dumps(pair[1]).encode())),
    st.tuples(st.sampled_from([COMPLETIONS, CHAT]), st.binary(max_size=60)),
)


def fault_of(status: int, content: bytes, *, is_stream: bool) -> str:
    """What is wrong with an answer, "" for nothing."""
    if status not in STATUSES:
        return f"status {status}"
    if is_stream and status == 200:
        ends = content.endswith(b"data: [DONE]\n\n") or b'data: {"error":' in content
        return "" if ends else "a stream without an end"
    found = json.loads(content)
    if status != 200 and set(found["error"]) != {"message", "type", "param", "code"}:
        return "an error of another shape"
    return ""
