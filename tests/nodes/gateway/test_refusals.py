"""What each API refuses, and which field its error names: one table for all of them."""

from typing import Any

import pytest
from starlette.types import ASGIApp

from airdraft.nodes.engine.rules import MAX_GRAMMAR_CHARS
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.config import GatewayConfig, GatewayLimits
from tests.nodes.gateway.calls import CHAT, COMPLETIONS, open_app, post
from tests.nodes.gateway.fake_mesh import FakeMesh, text_answer

MOST = 300
LIMITS = GatewayLimits(
    max_prompt_chars=MOST, max_prompt_tokens=5, max_prompts=3, max_messages=4, max_tokens=99
)
MESSAGES, RESPONSES, EMBEDDINGS = "/v1/messages", "/v1/responses", "/v1/embeddings"
COUNT, TOKENIZE, DETOKENIZE = "/v1/messages/count_tokens", "/tokenize", "/detokenize"
USER = {"role": "user", "content": "hi"}
CALL = {"function": {"name": "f", "arguments": "{}"}}
MAIL = {"type": "function", "function": {"name": "mail"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ANSWER = "response_format"
LARGE = {"description": "x" * MAX_GRAMMAR_CHARS}
# What a body has beside the changes of a row.
USUAL: dict[str, Any] = {
    CHAT: {"messages": [USER]},
    COMPLETIONS: {"prompt": "hi"},
    MESSAGES: {"messages": [USER], "max_tokens": 5},
    RESPONSES: {"input": "hi"},
}


def said(**message: Any) -> dict[str, Any]:
    return {"messages": [{**USER, **message}]}


def block(role: str, **part: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [part]}]}


def schema(value: Any) -> dict[str, Any]:
    return {ANSWER: {"type": "json_schema", "json_schema": {"schema": value}}}


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "x", **function}}]}


OF_CHAT: list[tuple[dict[str, Any], str]] = [
    (said(role="robot"), "messages[0].role"),
    (said(content=None), "messages[0].content"),
    (said(content=[]), "messages[0].content"),
    (said(content=["x"]), "messages[0].content[0]"),
    (said(content=[{"type": "image_url"}]), "messages[0].content[0].type"),
    (said(content=[{"type": "text"}]), "messages[0].content[0].text"),
    (said(content="x" * (MOST + 1)), "messages[0].content"),
    (said(role="assistant", tool_calls=[{}]), "messages[0].tool_calls[0].function"),
    (said(tool_calls=[CALL]), "messages[0].tool_calls"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [USER] * 5}, "messages"),
    ({"messages": [{**USER, "content": "x" * (MOST - 1)}] * 2}, "messages"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 100}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x"] * 9}, "stop"),
    ({ANSWER: {"type": "json_schema"}}, f"{ANSWER}.json_schema"),
    ({ANSWER: {"type": "text", "json_schema": {"schema": {}}}}, f"{ANSWER}.json_schema"),
    ({ANSWER: {"type": "json_object"}, "grammar": "x"}, "grammar"),
    ({ANSWER: {"type": "text", "schema": {}}}, f"{ANSWER}.schema"),
    ({ANSWER: {"type": "json_object", "schema": []}}, f"{ANSWER}.schema"),
    (schema([]), f"{ANSWER}.json_schema.schema"),
    (schema({"a": "\ud800"}), f"{ANSWER}.json_schema.schema"),
    (schema(LARGE), f"{ANSWER}.json_schema.schema"),
    ({ANSWER: {"type": "json_object", "schema": LARGE}}, f"{ANSWER}.schema"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"n": 17}, "n"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    # What other servers take, and would be a text of another form here.
    ({"json_schema": {"type": "object"}}, "json_schema"),
    ({"guided_choice": ["yes", "no"]}, "guided_choice"),
    ({"reasoning_effort": "loud"}, "reasoning_effort"),
    *(
        ({"chat_template_kwargs": given}, "chat_template_kwargs")
        for given in (
            {"a": []},
            {"a b": 1},
            {"a": "x" * 65},
            dict.fromkeys("abcdefghijklmnopq"),
            {"thinking": "deep"},
            {"enable_thinking": 0},
            {"enable_thinking": True, "thinking": False},
        )
    ),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "other", "function": {"name": "x"}}]}, "tools[0].type"),
    (tool(name="a b"), "tools[0].function.name"),
    ({"tools": [MAIL, MAIL]}, "tools"),
    ({"tools": [MAIL] * 129}, "tools"),
    (tool(parameters=1), "tools[0].function.parameters"),
    (tool(parameters={"type": "array"}), "tools"),
    ({"tools": [MAIL], "tool_choice": "some"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    (
        {"tools": [MAIL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
    ),
    ({"tools": [MAIL], "grammar": 'root ::= "x"'}, "tools"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
]
OF_OTHERS: list[tuple[str, dict[str, Any], str]] = [
    (COMPLETIONS, {"prompt": ""}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": True}, "prompt"),
    (COMPLETIONS, {"prompt": [True]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [1, "a"]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": [1, -1]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": [1, 2**31]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": ["a", 1]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": ["a", ""]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": [[1], "a"]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": "x" * (MOST + 1)}, "prompt"),
    (COMPLETIONS, {"prompt": [1] * 6}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 4}, "prompt"),
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
    (COMPLETIONS, {"max_tokens": 100}, "max_tokens"),
    (COMPLETIONS, {"logprobs": True}, "logprobs"),
    (COMPLETIONS, {"logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"suffix": "x"}, "suffix"),
    (COMPLETIONS, {"best_of": 2}, "best_of"),
    (MESSAGES, {"max_tokens": None}, "max_tokens"),
    (MESSAGES, {"max_tokens": 0}, "max_tokens"),
    (MESSAGES, {"messages": []}, "messages"),
    (MESSAGES, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    (MESSAGES, block("user", type="image"), "messages[0].content[0].type"),
    (MESSAGES, block("user", type="text"), "messages[0].content[0].text"),
    (MESSAGES, block("assistant", type="tool_use", id="x"), "messages[0].content[0].name"),
    (
        MESSAGES,
        block("assistant", type="tool_result", tool_use_id="x"),
        "messages[0].content[0].type",
    ),
    (MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    (
        MESSAGES,
        {"tools": [{"name": "a", "input_schema": SCHEMA}], "tool_choice": {"type": "tool"}},
        "tool_choice.name",
    ),
    (MESSAGES, {"thinking": {"type": "loud"}}, "thinking.type"),
    (MESSAGES, {"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
    (MESSAGES, {"tools": [{"name": "a b", "input_schema": SCHEMA}]}, "tools[0].name"),
    (MESSAGES, {"system": "x" * (MOST - 1)}, "messages"),
    # With a system message the place in the conversation is another one.
    (MESSAGES, {"system": "x", "messages": [{**USER, "content": "x" * (MOST + 1)}]}, "messages"),
    (RESPONSES, {"input": None}, "input"),
    (RESPONSES, {"input": []}, "input"),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    (RESPONSES, {"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
    (RESPONSES, {"input": [{"role": "user"}]}, "input[0].content"),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    (RESPONSES, {"input": [{**USER, "content": "x" * MOST}], "instructions": "y"}, "input"),
    (RESPONSES, {"previous_response_id": "resp-1"}, "previous_response_id"),
    (RESPONSES, {"background": True}, "background"),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (RESPONSES, {"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    (
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": LARGE}}},
        "text.format.schema",
    ),
    (RESPONSES, {"reasoning": {"effort": "so"}}, "reasoning.effort"),
    (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
    (RESPONSES, {"max_output_tokens": 10**9}, "max_output_tokens"),
    (EMBEDDINGS, {"input": ["a"] * 2049}, "input"),
    (EMBEDDINGS, {"input": ""}, "input"),
    (EMBEDDINGS, {"input": "abc", "dimensions": 5}, "dimensions"),
    (TOKENIZE, {}, "content"),
    (TOKENIZE, {"content": "a", "prompt": "b"}, "content"),
    (TOKENIZE, {"content": "a", "add_special": False}, "add_special"),
    (DETOKENIZE, {"tokens": ["a"]}, "tokens[0]"),
    (DETOKENIZE, {}, "tokens"),
    (COUNT, {"messages": []}, "messages"),
]
# Fields that are hints elsewhere, where the settings say that unknown ones are errors.
STRICT: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, said(name="bob"), "messages[0].name"),
    (CHAT, said(other=1), "messages[0].other"),
    (CHAT, {"prompt": "x"}, "prompt"),
    (CHAT, {"store": True}, "store"),
]


def app_of(mesh: FakeMesh, *, strict_fields: bool) -> ASGIApp:
    return open_app(Gateway(mesh, GatewayConfig(limits=LIMITS, strict_fields=strict_fields)))


async def error_of(app: ASGIApp, path: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The error that a client gets, in the form of OpenAI's and of Anthropic's."""
    found = await post(app, path, {**USUAL.get(path, {}), **changes})
    assert (found.status, found.json["type"]) == (400, "error"), (path, changes)
    error: dict[str, Any] = found.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize("strict_fields", [False, True])
async def test_what_is_refused_is_named(strict_fields: bool) -> None:
    app = app_of(mesh := FakeMesh(), strict_fields=strict_fields)
    rows = STRICT if strict_fields else [*((CHAT, *row) for row in OF_CHAT), *OF_OTHERS]
    for path, changes, param in rows:
        error = await error_of(app, path, changes)
        assert error["param"] == param, (path, changes)
        assert error["message"].startswith(param), error
    # Only a vector's length is not known before the mesh has been asked.
    assert [prompt for prompt, _ in mesh.asked] == ([] if strict_fields else ["abc"])


async def test_errors_have_codes() -> None:
    app = app_of(FakeMesh(), strict_fields=True)
    for code, body, param in (
        ("invalid_type", {"n": True}, "n"),
        ("invalid_type", {"n": 1.0}, "n"),
        ("invalid_type", {"messages": None}, "messages"),
        ("invalid_type", {"stop": ["x", 1]}, "stop[1]"),
        ("invalid_type", {ANSWER: 1}, ANSWER),
        ("invalid_value", {"temperature": 2.1}, "temperature"),
        ("invalid_value", {"stop": "\ud800"}, "stop"),
        ("invalid_value", {ANSWER: {"type": []}}, f"{ANSWER}.type"),
        ("missing_required_parameter", {ANSWER: {}}, f"{ANSWER}.type"),
        ("unsupported_parameter", {"functions": [{}]}, "functions"),
        ("unsupported_parameter", {"modalities": 0}, "modalities"),
        ("unsupported_parameter", {"store": True}, "store"),
        ("unknown_parameter", said(other=1), "messages[0].other"),
    ):
        error = await error_of(app, CHAT, body)
        assert (error["param"], error["code"]) == (param, code)


async def test_what_to_do_instead_is_said() -> None:
    app = app_of(FakeMesh(), strict_fields=True)
    for path, changes, words in (
        (RESPONSES, {"previous_response_id": "x"}, "send the whole conversation as input"),
        (CHAT, {"temprature": 1}, "temprature: unknown field, did you mean temperature"),
    ):
        assert words in (await error_of(app, path, changes))["message"]


async def test_what_the_mesh_refuses_has_a_status_of_its_own() -> None:
    mesh = FakeMesh(text_answer("a"))
    app = app_of(mesh, strict_fields=False)
    for path in (CHAT, COMPLETIONS, MESSAGES, RESPONSES, EMBEDDINGS):
        asked = {**USUAL.get(path, {"input": "a"}), "model": "other"}
        found = await post(app, path, asked)
        assert (found.status, found.json["error"]["code"]) == (404, "model_not_found"), path
