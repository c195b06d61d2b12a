"""Generates bodies whose fields are at, just below and just above the limits of the gateway.

The limits are those of the schemas that it publishes and of its settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, Final

from airdraft.nodes.gateway.app import APIS, document
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.shape import Api
from airdraft.nodes.gateway.text_routes import TEXT_ROUTES, TextRoute
from bench.hostile.byte_streams import request
from bench.hostile.items import Item

_POSTS: Final[dict[str, Api | TextRoute]] = {**APIS, **TEXT_ROUTES}
_SCHEMAS: Final = document({}, _POSTS)["components"]["schemas"]
# Of settings that limit what a body has; a body larger than this only gets status 413.
_MOST: Final = GatewayLimits().max_body_bytes
_COUNTS: Final = [
    limit + by
    for limit in asdict(GatewayLimits()).values()
    if isinstance(limit, int) and limit < _MOST
    for by in (-1, 0, 1)
]
# With any value at a limit the body is refused, and no other field matters.
_REFUSED: Final = {"model", "system_fingerprint", "previous_response_id", "dimensions"}
# Messages and parts without these are refused.
_CONTENTS: Final = {"content", "text"}
_TEXT: Final = "/v1/completions"
_CHAT: Final = "/v1/chat/completions"
_WORD_CHARS: Final = 60_000
_MANY_CHARS: Final = GatewayLimits().max_prompt_chars
_CONTROL: Final = "<|im_start|>"
_DEPTH: Final = 100_000


def ordinary(key: str) -> Item:
    """What any user asks."""
    body = {"prompt": "Hello", "max_tokens": 16, "stream": True}
    return Item(name="ordinary", pieces=(request(_TEXT, body, key),))


def fixed(key: str) -> Sequence[Item]:
    """Bodies that were harmful once, or resemble them."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": {**function, "name": f"f{k}"}} for k in range(128)]
    long = {"max_tokens": 4_000, "ignore_eos": True}
    scored = {"prompt": [[5 + k for k in range(1_900)]] * 64, "echo": True, "max_tokens": 1}
    users = {"prompt": [[7] * 3_900], "user": "somebody else", **long}
    bodies: list[tuple[str, str, Any]] = [
        ("scored prompts", _TEXT, {**scored, "logprobs": 20}),
        ("scored choices", _TEXT, {"prompt": "a", "n": 16, "logprobs": 20, **long}),
        (
            "scored chats",
            _CHAT,
            {**_chat("a"), "n": 16, "logprobs": True, "top_logprobs": 20, **long},
        ),
        ("prompts x choices", _TEXT, {"prompt": ["a"] * 64, "n": 16, **long}),
        ("a choice less than too many", _TEXT, {"prompt": ["a"] * 8, "n": 16, **long}),
        ("a user who fills the cache", _TEXT, users),
        ("control tokens", _CHAT, _chat(*[_CONTROL * 20] * 1_024)),
        ("tools", _CHAT, {**_chat("a"), "tools": tools, "n": 16}),
        ("unknown fields", _TEXT, {"prompt": "a", **{f"f{k}": {} for k in range(100_000)}}),
        ("token ids", _TEXT, {"prompt": [[5] * 100_000] * 8, "max_tokens": 1}),
        ("texts to embed", "/v1/embeddings", {"input": ["a" * 100] * 2_048}),
        ("ids to embed", "/v1/embeddings", {"input": [[5] * 200] * 2_048}),
        ("lists in lists", _TEXT, b'{"prompt": ' + b"[" * _DEPTH + b"]" * _DEPTH + b"}"),
        ("a long number", _TEXT, b'{"prompt": "a", "seed": ' + b"9" * _DEPTH + b"}"),
    ]
    for letter in "a!é \n0":
        body = {**_chat(letter * _WORD_CHARS), "max_tokens": 1}
        bodies.append((f"a word of {letter!r}", _CHAT, body))
    return [Item(name=name, pieces=(request(path, body, key),)) for name, path, body in bodies]


def _chat(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


class Bodies:
    """Draws bodies, most of whose fields are as small as can be. key: sent with them."""

    def __init__(self, random: Random, key: str) -> None:
        self._random = random
        self._key = key

    def item(self) -> Item:
        random = self._random
        path = random.choice((_TEXT, _CHAT, *sorted(_POSTS)))
        schema = _SCHEMAS[_POSTS[path].body.__name__]
        fields = schema["properties"]
        names = sorted(fields.keys() - _REFUSED)
        sharp = random.sample(names, min(len(names), random.choice((1, 1, 2, 4))))
        needed = {*schema.get("required", ()), *({"max_tokens"} & fields.keys())}
        body = {name: self._value(fields[name], name in sharp) for name in {*sharp, *needed}}
        if "stream" in fields:
            body["stream"] = random.random() < 0.5
        name = f"{path} with {', '.join(sorted(sharp))} at a limit"
        return Item(name=name, pieces=(request(path, body, self._key),))

    def _value(self, schema: Mapping[str, Any], is_sharp: bool, depth: int = 0) -> Any:
        """A value that the schema permits, or one that is just beyond one of its limits."""
        random = self._random
        if "$ref" in schema:
            schema = _SCHEMAS[schema["$ref"].rpartition("/")[2]]
        if "enum" in schema or "const" in schema:
            return random.choice(schema.get("enum") or [schema["const"]])
        if alternatives := schema.get("anyOf") or schema.get("oneOf"):
            chosen = random.choice([each for each in alternatives if each.get("type") != "null"])
            return self._value(chosen, is_sharp, depth)
        low = schema.get("minimum", 0)
        match schema["type"]:
            case "boolean":
                return random.random() < 0.5
            case "string":
                if not is_sharp:
                    return "abc"
                size = self._count(schema, "Length", _MANY_CHARS)
                return (random.choice("a\né漢0") * size)[:size]
            case "integer":
                high = schema.get("maximum", schema.get("exclusiveMaximum"))
                if not is_sharp:
                    return max(low, 8)
                if high is None:
                    return random.choice((low - 1, low, *random.sample(_COUNTS, 4)))
                return random.choice((low - 1, low, low + 1, high - 1, high - 1, high, high + 1))
            case "number":
                high = schema["maximum"]
                near = (low - 0.01, low, low, high, high, high + 0.01)
                return random.choice(near) if is_sharp else low
            case "array":
                # One level of a value has very many entries, or the body would be too large.
                is_wide = is_sharp and (depth == 0 or random.random() < 0.3)
                count = self._count(schema, "Items", random.choice(_COUNTS)) if is_wide else 1
                goes_on = is_sharp and (count < 9 or random.random() < 0.2)
                entry = self._value(schema["items"], goes_on, depth + 1)
                return [entry] * min(count, _MOST // len(json.dumps(entry)) + 1)
        if "properties" not in schema:
            count = self._count(schema, "Properties", 1_000) if is_sharp else 1
            return {str(number): random.choice((0, 1.5, -100)) for number in range(count)}
        fields = schema["properties"]
        chosen = {*schema.get("required", ()), *(_CONTENTS & fields.keys())}
        if depth < 3:
            chosen |= {*random.sample(sorted(fields), random.choice((0, 1, len(fields))))}
        sharp = random.sample(sorted(chosen), min(len(chosen), 1)) if is_sharp else ()
        return {each: self._value(fields[each], each in sharp, depth + 1) for each in chosen}

    def _count(self, schema: Mapping[str, Any], of: str, most: int) -> int:
        limit: int = schema.get(f"max{of}", schema.get("maxLength", most))
        return min(_MOST, max(0, limit + self._random.choice((-1, 0, 0, 0, 1))))
