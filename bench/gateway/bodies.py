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
_token_ids = st.lists(st.integers(0, 120), min_size=1, max_size=8)
_schema = st.sampled_from([{"type": "object"}, {"type": "string", "maxLength": 4}, {}, True, []])
_COMMON: Final[dict[str, st.SearchStrategy[Any]]] = {
    "model": st.sampled_from(["", "toy-1", "gpt-4o"]),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "n": st.integers(0, 4),
    "seed": st.integers(-1, 2**63),
    "stop": _text | st.lists(_text, max_size=9),
    "temperature": st.floats(-0.1, 2.1) | st.integers(0, 2),
    "top_p": st.floats(-0.1, 1.1),
    "top_k": st.integers(-1, 100),
    "min_p": st.floats(0, 1.1),
    "max_tokens": st.integers(-1, 9),
    "presence_penalty": st.floats(-2.5, 2.5),
    "frequency_penalty": st.floats(-2.5, 2.5),
    "logit_bias": st.dictionaries(st.integers(0, 120).map(str) | _text, st.floats(-101, 101)),
    "ignore_eos": st.booleans(),
    "priority": st.integers(0, 11),
    "user": _text,
    "grammar": _text,
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "x"])},
        optional={"json_schema": st.fixed_dictionaries({"name": _text, "schema": _schema})},
    ),
    "tools": st.lists(st.just({}), max_size=1),
}
_OF_COMPLETIONS: Final = {
    **_COMMON,
    "echo": st.booleans(),
    "logprobs": st.integers(-1, 21),
    "prompt": _text | _token_ids | st.lists(_text, max_size=3) | st.lists(_token_ids, max_size=3),
}
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "system", "assistant", "tool"])},
    optional={
        "content": _text | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": _text}))
    },
)
_OF_CHAT: Final = {
    **_COMMON,
    "messages": st.lists(_message, max_size=3),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 21),
    "max_completion_tokens": st.integers(0, 9),
}


@st.composite
def _body(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]], main: str) -> Any:
    """A body with some fields, one of them possibly anything at all."""
    names = draw(st.sets(st.sampled_from(sorted(fields)), max_size=5))
    body = {name: draw(fields[name]) for name in names | {main, "max_tokens"}}
    if draw(st.integers(0, 3)) == 0:
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
