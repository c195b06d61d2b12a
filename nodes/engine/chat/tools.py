"""The forms in which models are shown functions that they may call, and in which they write calls.

A style is the form of a model's calls. It is recognised in the text of the model's chat template,
which writes past calls in that form. Templates without tools, and those that write calls in another
form, get tools and calls as text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from airdraft.nodes.engine.chat.tagged import GLM, QWEN3_CODER
from airdraft.nodes.engine.protocol import InvalidInputError

# <tool_call> and </tool_call> around {"name": ..., "arguments": {...}}: Hermes, Qwen, and others.
HERMES: Final = "hermes"
# {"name": ..., "parameters": {...}} as the whole answer.
LLAMA3: Final = "llama3"
# [{"name": ..., "arguments": {...}}, ...] after a control token.
MISTRAL: Final = "mistral"
# <tool_call> and a tag for each argument.
TAGGED: Final = {"qwen3-coder": QWEN3_CODER, "glm": GLM}
# A message of its own to the function, in the channel `commentary`: gpt-oss.
CHANNELS: Final = "channels"
STYLES: Final = (HERMES, LLAMA3, MISTRAL, CHANNELS, *TAGGED)
# Regular expressions for the header of a message in a channel that calls a function: what stands
# before the function's name, behind the beginning of the message, and what stands after it.
TO_FUNCTION: Final = " to=functions."
CALLING: Final = rf"(<\|channel\|>(commentary|analysis))?{re.escape(TO_FUNCTION)}"
CALLED: Final = r"(<\|channel\|>(commentary|analysis))?( ?<\|constrain\|>[a-z]+| [a-z]+)? ?"
# Regular expressions for white space, and for that in a call without its mark. The grammar of calls
# and the reader of answers must agree: only what the grammar takes for a call is a valid one.
BLANK: Final = r"[ \t\r\n]"
GAP: Final = BLANK + "{0,20}"

_BAD: Final = "tools: an object of tools and fields of messages is accepted"
_NAMES_TOOLS: Final = re.compile(r"\btools\b")
_CALLING_CHANNEL: Final = "<|channel|>commentary"
# The beginnings of calls in Mistral's form and in the other two, as templates write them.
_MISTRAL_CALLS: Final = re.compile(r"\[TOOL_CALLS\] ?\[")
_CALL: Final = re.compile(r'\{\\?"name\\?": \\?"')
# Templates with these write the name under another key, or all calls as one list.
_OTHER_FORM: Final = re.compile(r'"tool_name"|<tool_calls>')
_INTRODUCTION: Final = (
    "You may call functions. To call one, write\n"
    '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n'
    "and nothing behind it; you are then told what it returned. "
    "These are the functions, each with the JSON schema of its arguments:"
)


def style_of(template: str) -> str:
    """Returns the style of a model with this chat template; "" without a template."""
    if not template:
        return ""
    return known_style(template) or HERMES


def known_style(template: str) -> str:
    """Returns the style in which a template itself writes tools and calls; "" if it does not."""
    if not _NAMES_TOOLS.search(template):
        return ""
    if _MISTRAL_CALLS.search(template):
        return MISTRAL
    if _CALLING_CHANNEL in template:
        return CHANNELS
    for style, form in TAGGED.items():
        if form.before_key in template and "<tool_call>" in template:
            return style
    if not _CALL.search(template) or _OTHER_FORM.search(template):
        return ""
    if "<tool_call>" in template:
        return HERMES
    return LLAMA3 if '"parameters":' in template else ""


class ParsedTools(NamedTuple):
    """What a chat template receives besides texts of messages.

    tools: In the form of OpenAI's API. fields: By the index of a message, its fields besides role
    and content: `tool_calls`, or the `tool_call_id` and `name` of a result. variables: Values that
    the template may use.
    """

    tools: list[dict[str, Any]]
    fields: dict[int, dict[str, Any]]
    variables: dict[str, Any]


def parse_tools(text: str) -> ParsedTools:
    """Parse {"tools": [...], "messages": {"3": {...}}, "variables": {...}}, where the last may be
    left out; "" is all of them empty. Raises InvalidInputError.
    """
    if not text:
        return ParsedTools([], {}, {})
    try:
        found = json.loads(text)
        variables = {str(name): value for name, value in found.get("variables", {}).items()}
        tools = [dict(tool) for tool in found["tools"]]
        places = {int(place): dict(fields) for place, fields in found["messages"].items()}
        for tool in tools:
            dict(tool["function"])
        for call in (call for each in places.values() for call in each.get("tool_calls", ())):
            _ = call["function"]["name"], call["function"]["arguments"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidInputError(_BAD) from None
    return ParsedTools(tools, places, variables)


def switch_of(thinks: bool) -> dict[str, bool]:
    """Returns the variables by which templates switch thinking on or off: two names are in use."""
    return {"enable_thinking": thinks, "thinking": thinks}


def told_switch(thinks: bool | None) -> str:
    """Returns a text for parse_tools() that only switches thinking; "" for None."""
    if thinks is None:
        return ""
    return json.dumps({"tools": [], "messages": {}, "variables": switch_of(thinks)})


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Returns a JSON value with `change` applied to all its texts, including names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {change(name): mapped(item, change) for name, item in value.items()}
    return value


def tools_as_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns a conversation with tools as text, for a template without tools.

    The system message describes the tools, answers contain the calls, and messages of the user
    contain the results.
    """
    converted: list[dict[str, Any]] = []
    follows_result = False
    for message in messages:
        role, content = message["role"], message["content"]
        is_result = role == "tool"
        if is_result:
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        # Many templates require that user and assistant alternate, so a result joins the message of
        # the user before it, and what the user says after it joins the result.
        joins = role == "user" and (is_result or follows_result)
        follows_result = is_result
        if joins and converted and converted[-1]["role"] == "user":
            converted[-1]["content"] += "\n" + content
            continue
        for call in message.get("tool_calls", ()):
            function = call["function"]
            written = {"name": function["name"], "arguments": function["arguments"]}
            content += f"{_break(content)}<tool_call>\n{_json(written)}\n</tool_call>"
        converted.append({"role": role, "content": content})
    if tools:
        text = "\n".join([_INTRODUCTION, *(_json(tool["function"]) for tool in tools)])
        if converted and converted[0]["role"] == "system":
            converted[0]["content"] += f"{_break(converted[0]['content'])}\n{text}"
        else:
            converted.insert(0, {"role": "system", "content": text})
    return converted


def for_style(style: str, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a conversation as templates of this style take it.

    Results are in the order of their calls. Templates with tags need objects as arguments; a text
    that was cut off becomes {}. Those of llama3 and channels know one call a message, so a message
    with several becomes several, each with its result. Mistral's need ids of nine characters.
    """
    converted: list[dict[str, Any]] = []
    rest = deque(map(dict, messages))
    while rest:
        message = rest.popleft()
        calls = list(message.get("tool_calls", ()))
        if not calls:
            converted.append(message)
            continue
        results = list[dict[str, Any]]()
        while rest and rest[0]["role"] == "tool":
            results.append(rest.popleft())
        by_call = _by_call(calls, results)
        if style in TAGGED:
            calls = [_with_arguments(call) for call in calls]
        if style == MISTRAL:
            calls = [{**call, "id": _short_id(call, place)} for place, call in enumerate(calls)]
            for call, belonging in zip(calls, by_call, strict=True):
                for result in belonging:
                    result["tool_call_id"] = call["id"]
        if style in (CHANNELS, LLAMA3):
            for place, call in enumerate(calls):
                content = "" if place else message["content"]
                converted += [{**message, "content": content, "tool_calls": [call]}]
                converted += by_call[place]
        else:
            converted += [{**message, "tool_calls": calls}, *chain(*by_call)]
    return converted


def _by_call(
    calls: Sequence[Mapping[str, Any]], results: Sequence[dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Returns the results of each call. Those without its id are the calls' in their order."""
    places = {call["id"]: place for place, call in enumerate(calls) if call.get("id")}
    if len(places) < len(calls):
        places = {}
    found: list[list[dict[str, Any]]] = [[] for _ in calls]
    for number, result in enumerate(results):
        place = places.get(result.get("tool_call_id"), number)
        found[min(place, len(calls) - 1)].append(result)
    return found


def _short_id(call: Mapping[str, Any], place: int) -> str:
    return hashlib.sha256(str(call.get("id") or place).encode()).hexdigest()[:9]


def _with_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    is_object = isinstance(function["arguments"], dict)
    return {**call, "function": {**function, **({} if is_object else {"arguments": {}})}}


def with_descriptions(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns tools of which each has a description and parameters."""
    needed = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return [{**tool, "function": {**needed, **tool["function"]}} for tool in tools]


def with_users_alone(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a conversation for a template that refuses it: without system messages and without
    two messages of the user in a row.

    A system message becomes the beginning of the next message of the user.
    """
    converted: list[dict[str, Any]] = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        if role == "user" and converted and converted[-1]["role"] == "user":
            converted[-1]["content"] += "\n\n" + message["content"]
        else:
            converted.append({**message, "role": role})
    return converted


def _break(content: str) -> str:
    return "\n" if content else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
