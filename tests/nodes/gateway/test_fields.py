from __future__ import annotations

from typing import Any

import pytest

from nodes.client.generation import GenerateOptions
from nodes.engine.rules import Grammar, LogitBias
from nodes.gateway.chat import CHAT
from nodes.messages import ChatMessage
from tests.nodes.gateway.jobs import Jobs

ASK = {"messages": [{"role": "user", "content": "hi"}]}


def options(**body: Any) -> GenerateOptions:
    return Jobs(CHAT).job({**ASK, **body}).options


def test_defaults_are_those_of_openai() -> None:
    found = options()
    assert (found.temperature, found.top_p, found.num_choices, found.stops) == (1.0, 1.0, 1, ())
    assert found.rules.grammar == Grammar()
    assert not found.chat


def test_every_field_reaches_the_mesh() -> None:
    found = options(
        n=3,
        seed=5,
        stop=["a", "b"],
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias={"7": -100, "3": 1.5},
        ignore_eos=True,
        priority=9,
        model="m",
    )
    assert (found.num_choices, found.seed, found.stops) == (3, 5, ("a", "b"))
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == (0.5, 0.9, 4, 0.1)
    assert (found.rules.presence_penalty, found.rules.frequency_penalty) == (-1.0, 2.0)
    assert found.rules.logit_bias == (LogitBias(3, 1.5), LogitBias(7, -100.0))
    assert (found.ignore_eog, found.priority, found.model) == (True, 9, "m")
    found.rules.check()


def test_a_seed_is_drawn_where_none_was_given() -> None:
    seeds = {options().seed for _ in range(4)}
    assert len(seeds) == 4
    assert all(seed is not None and 0 <= seed < 2**53 for seed in seeds)


def test_what_means_the_same_is_the_same() -> None:
    assert options(stop="\n").stops == ("\n",)
    assert options(temperature=1e-9).temperature == 0.0
    assert 0 < options(top_p=0).top_p < 1e-6
    # What asks for nothing is accepted.
    options(tools=[], tool_choice="none", modalities=["text"])
    options(tools=None, audio=None, stream_options=None)


def test_formats_become_grammars() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text = '{"type":"object","properties":{"b":{},"a":{}}}'
    assert options(response_format=wanted).rules.grammar == Grammar("json_schema", text)
    found = options(response_format={"type": "json_object"}).rules.grammar
    assert found == Grammar("json_schema", '{"type":"object"}')
    assert options(response_format={"type": "text"}).rules.grammar == Grammar()
    assert options(grammar='root ::= "x"').rules.grammar == Grammar("gbnf", 'root ::= "x"')


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": value}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "text", "json_schema": {"schema": {}}}},
            "response_format.json_schema",
        ),
        ({"response_format": {"type": "json_object"}, "grammar": "x"}, "grammar"),
        (schema([]), "response_format.json_schema.schema"),
        (schema({"a": "\ud800"}), "response_format.json_schema.schema"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"temperature": 2.1}, "temperature"),
        ({"n": 17}, "n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"functions": [{}]}, "functions"),
        ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    assert Jobs(CHAT).refused({**ASK, **body}) == param


def test_hints_change_nothing_and_are_told() -> None:
    body = {"metadata": {"a": "b"}, "store": True, "prompt_cache_key": "x", "keep_alive": "5m"}
    messages = [{"role": "user", "content": "hi", "name": "nobody", "cached": 1}]
    job = Jobs(CHAT, strict_fields=False).job({**ASK, **body, "messages": messages})
    assert job.prompts == ((ChatMessage("user", "hi"),),)
    assert dict(job.ignored) == {
        "metadata": True,
        "store": True,
        "prompt_cache_key": True,
        "keep_alive": False,
        "messages[0].name": True,
        "messages[0].cached": False,
    }
    # What a text would depend on is refused all the same.
    lenient = Jobs(CHAT, strict_fields=False)
    assert lenient.refused({**ASK, "tools": [{"type": "function"}]}) == "tools[0].function"
    # Only the first hints are kept.
    job = lenient.job({**ASK, **{f"x{number}": 1 for number in range(1000)}})
    assert len(job.ignored) == 16
