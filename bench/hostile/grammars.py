"""Generates grammars, JSON schemas and tools that are dear to check, compile or follow."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from bench.hostile.byte_streams import request
from bench.hostile.items import Item

_CHAT: Final = "/v1/chat/completions"
_MAX_TOKENS: Final = 24
_NUM_CHOICES: Final = 4
_MOST_CHARS: Final = 65_536
_CLASSES: Final = ("[a-z ]", "[^a]", "[0-9]", "[\\x00-\\U0010FFFF]", "[é漢]", ".", "[]", "[z-a]")
_REPEATS: Final = ("*", "+", "?", "{3}", "{0,9}", "{2,}", "{1,400}", "{100000}", "{9,1}")


def _words(count: int, size: int) -> list[str]:
    random = Random(count)
    return ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=size)) for _ in range(count)]


def _matching(words: Sequence[str]) -> Any:
    return {"anyOf": [{"type": "string", "pattern": f"^.*{word}.*$"} for word in words]}


_RULES: Final = "\n".join(f"r{k} ::= [a-z ] r{k}?" for k in range(200))
_GRAMMARS: Final = {
    "ambiguous letters": "root ::= s\ns ::= s s | [a-z ]",
    "three of itself": "root ::= s\ns ::= s s s | s s | [a-z ] | ",
    "sixty stars": "root ::= " + " ".join(["[a-z ]*"] * 60),
    "200 rules": f"root ::= r*\nr ::= {' | '.join(f'r{k}' for k in range(200))}\n{_RULES}",
    "expressions": 'root ::= e\ne ::= e "+" e | e "*" e | "(" e ")" | [a-z0-9 ]+',
    "nothing but itself": "root ::= root",
}
_SCHEMAS: Final[dict[str, Any]] = {
    "multipleOf 4999999": {"type": "integer", "multipleOf": 4_999_999},
    "eight of 99991": {"properties": {f"a{i}": {"multipleOf": 99_991 - i} for i in range(8)}},
    "two that are prime": {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]},
    "nested repeats": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "700 patterns": {
        "properties": {f"f{i}": {"type": "string", "pattern": "^(a|b){0,50}$"} for i in range(700)}
    },
    "3000 values": {"enum": _words(3_000, 12)},
    "long strings": {"type": "string", "minLength": 50_000, "maxLength": 100_000},
    "many states": {"type": "string", "pattern": "^(a|b)*a(a|b){13}$"},
    "400 patterns": _matching(_words(400, 4)),
    "arrays of patterns": {"type": "array", "minItems": 1, "items": _matching(_words(60, 3))},
    "references": {
        "properties": {f"p{k}": {"items": {"$ref": "#/$defs/x"}} for k in range(400)},
        "$defs": {"x": {"type": "string"}},
    },
}


def _item(name: str, key: str, **fields: Any) -> Item:
    asked = {"messages": [{"role": "user", "content": "Write letters."}], "n": _NUM_CHOICES}
    body = {**asked, "max_tokens": _MAX_TOKENS, "temperature": 1.0, **fields}
    return Item(name=name, pieces=(request(_CHAT, body, key),))


def ordinary(key: str) -> Item:
    """The same request without a grammar."""
    return _item("ordinary", key, ignore_eos=True)


def fixed(key: str) -> Sequence[Item]:
    """Grammars that were harmful once, or resemble them."""
    function = {"parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    tools = [{"type": "function", "function": {"name": n, **function}} for n in _words(128, 40)]
    return [
        *(_item(name, key, grammar=text) for name, text in _GRAMMARS.items()),
        *(_item(name, key, response_format=_of(schema)) for name, schema in _SCHEMAS.items()),
        _item("128 tools", key, tools=tools),
        _item("one of 128 tools", key, tools=tools, tool_choice="required"),
    ]


def _of(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


class Grammars:
    """Draws grammars and schemas in about equal parts. key: sent with them."""

    def __init__(self, random: Random, key: str) -> None:
        self._random = random
        self._key = key

    def item(self) -> Item:
        if self._random.random() < 0.5:
            grammar = self._grammar()[:_MOST_CHARS]
            return _item("generated grammar", self._key, grammar=grammar)
        return _item("generated schema", self._key, response_format=_of(self.schema()))

    def _grammar(self) -> str:
        names = [f"r{k}" for k in range(self._random.choice((1, 2, 5, 30)))]
        rules = [f"{name} ::= {self._expression(names, 3)}" for name in names]
        return "\n".join([f"root ::= {self._expression(names, 1)}", *rules])

    def _expression(self, names: Sequence[str], depth: int) -> str:
        random = self._random
        if not depth or random.random() < 0.2:
            literal = '"' + "".join(random.choices("ab é", k=random.choice((0, 1, 3, 300)))) + '"'
            return random.choice((literal, random.choice(_CLASSES), random.choice(names)))
        match random.randrange(5):
            case 0:
                part = self._expression(names, depth - 1)
                return f"({part}){random.choice(_REPEATS)}"
            case 1:
                # Something of itself on the left and right: ambiguous, and recursive on the left.
                name = random.choice(names)
                return f"{name} {name} | {self._expression(names, depth - 1)}"
            case 2:
                words = _words(random.choice((2, 40, 300)), 4)
                return " | ".join(f'"{word}"' for word in words)
        parts = [self._expression(names, depth - 1) for _ in range(random.choice((1, 2, 3, 8)))]
        return "(" + random.choice((" ", " | ")).join(parts) + ")"

    def schema(self, depth: int = 3) -> Any:
        """A JSON schema of any kind, with numbers of all sizes."""
        random = self._random
        kinds = ("string", "integer", "number", "boolean", "null", "array", "object")
        patterns = ("^a{0,%d}$", "(a|b|ab){%d}", "^.{%d}x", "[^a]{0,%d}b")
        formats = ("date-time", "uri", "email", "uuid", "ipv6")
        sizes = (random.randint(0, 100), random.randint(0, 10**7))
        low, high = random.choice(sizes), random.choice(sizes)
        words = [
            "".join(random.choices("aé\n漢", k=random.randint(0, 20))) for _ in range(low % 50)
        ]
        leaves = (
            {"type": random.choice(kinds)},
            {"type": "integer", "multipleOf": low},
            {"type": "number", "multipleOf": 10 ** random.uniform(-9, 9)},
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "string", "minLength": low, "maxLength": high},
            {"type": "string", "pattern": random.choice(patterns) % low},
            {"type": "string", "format": random.choice(formats)},
            {"enum": [*words, low]},
        )
        if not depth or random.random() < 0.3:
            return random.choice(leaves)
        count = random.randint(1, 6 if depth > 2 else 2)
        parts = [self.schema(depth - 1) for _ in range(count)]
        return random.choice(
            (
                {random.choice(("allOf", "anyOf", "oneOf")): parts},
                {"type": "array", "items": parts[0], "maxItems": low},
                {"type": "object", "properties": {f"p{i}": part for i, part in enumerate(parts)}},
            )
        )
