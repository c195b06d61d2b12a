"""Translates the grammars of requests into llguidance's dialect of Lark."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from airdraft.nodes.engine.rules import Grammar
from airdraft.nodes.engine.tool_rules import tool_rules

# GBNF is translated by Python code: 60,000 characters take 1.7 s, and the time grows with the
# square of the number of rules.
_MAX_GBNF_CHARS: Final = 16_384
_MAX_GBNF_RULES: Final = 500
# If JSON could contain any amount of whitespace, a model could write it without end.
_JSON_OPTIONS: Final = {"whitespace_flexible": True, "whitespace_pattern": "( |\\n {0,20})?"}
# The model may spell a text with any tokens.
_HEADER: Final = '%llguidance {"no_forcing": true}\n'


def rules_of(grammar: Grammar) -> str:
    """Returns a grammar in llguidance's dialect of Lark; raises ValueError with the reason."""
    return _HEADER + _RULES[grammar.kind](grammar.text)


def _json_rules(text: str) -> str:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError("the JSON schema is not an object")
    return f"start: {_json_rule(schema)}"


def _json_rule(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS})


def _tool_rules(text: str) -> str:
    return tool_rules(text, _json_rule)


def _gbnf_rules(text: str) -> str:
    if len(text) > _MAX_GBNF_CHARS:
        raise ValueError(f"the grammar has {len(text)} characters, limit {_MAX_GBNF_CHARS}")
    if (count := text.count("::=")) > _MAX_GBNF_RULES:
        raise ValueError(f"the grammar has {count} rules, limit {_MAX_GBNF_RULES}")
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        rules = gbnf_to_lark(text)
    except Exception as error:  # noqa: BLE001 - it raises this very class, and RecursionError
        raise ValueError(f"the grammar is not valid: {str(error).strip()}") from None
    # The first line is an empty header of the translation.
    return rules.partition("\n")[2]


_RULES: Final[dict[str, Callable[[str], str]]] = {
    "json_schema": _json_rules,
    "gbnf": _gbnf_rules,
    "tools": _tool_rules,
}
