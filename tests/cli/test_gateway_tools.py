"""Tools through the gateway and the default pair: calls are valid, and the same again."""

from __future__ import annotations

import json
from typing import Any

import openai

from tests.cli.default_pair import CANARY, MODEL, NEEDS_PAIR

pytestmark = NEEDS_PAIR
BOOKING: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Book a table at a restaurant.",
        "parameters": {
            "type": "object",
            "properties": {
                "guests": {"type": "integer", "minimum": 1, "maximum": 12},
                "place": {"enum": ["inside", "outside"]},
                "name": {"type": "string", "maxLength": 20},
                "dishes": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                "at": {
                    "type": "object",
                    "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
                    "required": ["hour"],
                    "additionalProperties": False,
                },
            },
            "required": ["guests", "place", "at"],
        },
    },
}


def fault_of_booking(text: str) -> str:
    """What is wrong with arguments; "" for nothing."""
    found = json.loads(text)
    known = BOOKING["function"]["parameters"]["properties"]
    checks = {
        "unknown names": set(found) <= set(known),
        "guests": type(found["guests"]) is int and 1 <= found["guests"] <= 12,
        "place": found["place"] in ("inside", "outside"),
        "name": len(found.get("name", "")) <= 20,
        "dishes": len(found.get("dishes", ())) <= 3,
        "at": set(found["at"]) == {"hour"} and 0 <= found["at"]["hour"] <= 23,
    }
    return ", ".join(name for name, is_good in checks.items() if not is_good)


def test_calls_of_tools_are_valid_and_the_same_however_they_are_asked_for(
    client: openai.OpenAI,
) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "A table for four tonight, please."}],
        "tools": [BOOKING],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0.8,
        "max_tokens": 256,
    }
    for seed in range(3):
        whole = client.chat.completions.create(**asked, seed=seed).choices[0]
        assert whole.finish_reason == "tool_calls"
        (call,) = whole.message.tool_calls or ()
        assert call.type == "function"
        assert (call.function.name, fault_of_booking(call.function.arguments)) == ("book", "")
        name, arguments = "", ""
        for event in client.chat.completions.create(**asked, seed=seed, stream=True):
            for part in event.choices[0].delta.tool_calls or ():
                assert part.function is not None
                name += part.function.name or ""
                arguments += part.function.arguments or ""
        assert (name, arguments) == (call.function.name, call.function.arguments)


def test_what_a_tool_returned_is_read_and_answered(client: openai.OpenAI) -> None:
    question: Any = {"role": "user", "content": "A table for four tonight, please."}
    asked: Any = {"model": MODEL, "tools": [BOOKING], "max_tokens": 200, "temperature": 0}
    named = {"type": "function", "function": {"name": "book"}}
    first = client.chat.completions.create(**asked, messages=[question], tool_choice=named)
    answer = first.choices[0].message
    (call,) = answer.tool_calls or ()
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": f"Booked, {CANARY}."}
    told: Any = [question, answer.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(**asked, messages=told)
    choice = second.choices[0]
    for made in choice.message.tool_calls or ():
        assert made.type == "function"
        if choice.finish_reason == "tool_calls":
            assert fault_of_booking(made.function.arguments) == ""
    assert choice.message.content or choice.message.tool_calls
    plain = client.chat.completions.create(**asked, messages=told, tool_choice="none")
    assert plain.choices[0].message.content
    assert not plain.choices[0].message.tool_calls
