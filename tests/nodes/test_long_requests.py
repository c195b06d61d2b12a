"""What a request may hold at most travels: to the coordinator, and on to target and draft node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.codec import decode, encode
from nodes.client.generation import GenerateOptions, submit_of
from nodes.engine.rules import GRAMMAR_KINDS, MAX_GRAMMAR_CHARS, Grammar, LogitRules
from nodes.messages import ChatMessage, TokenizeRequest
from tests.nodes.builders import make_spec

HI = (ChatMessage("user", "hi"),)


@pytest.mark.parametrize("kind", GRAMMAR_KINDS)
def test_the_longest_grammar(kind: str) -> None:
    rules = LogitRules(grammar=Grammar(kind, "ö" * MAX_GRAMMAR_CHARS))
    submit = submit_of(HI, GenerateOptions(rules=rules), 1)
    assert decode(encode(submit)).message == submit
    spec = make_spec(1)
    opened = replace(spec, sampling=replace(spec.sampling, rules=rules))
    assert decode(encode(opened)).message == opened


def test_tools_of_many_functions() -> None:
    tools = "x" * 200_000
    submit = submit_of(HI, GenerateOptions(tools=tools), 1)
    assert decode(encode(submit)).message == submit
    asked = TokenizeRequest(1, "", HI, tools=tools)
    assert decode(encode(asked)).message == asked
