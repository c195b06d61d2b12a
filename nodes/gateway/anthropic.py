"""/v1/messages, as Anthropic's clients send it: a conversation as in chat.py, in other words.

Source: Anthropic's API reference, Messages and streaming of messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag

from nodes.gateway.answers import Delta
from nodes.gateway.bodies import (
    LIST,
    PLAIN,
    Body,
    Object,
    Text,
    compact,
    plain_or_list,
    read,
    wrong,
)
from nodes.gateway.chat import ChatBody, job_of_chat
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.fields import Job, Sampling, as_openai
from nodes.gateway.reading import CALL, CONTENT, Item, ItemReader, Step, items_of
from nodes.gateway.resuming import Told
from nodes.gateway.shape import Head, Whole, call_id, named_event
from nodes.messages import MAX_MESSAGES, MAX_STOPS

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_CHOICES: Final = {"auto": "auto", "none": "none", "any": "required"}
# What a block of each kind has to have besides its type.
_NEEDED: Final = {
    "text": ("text",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": (),
    "redacted_thinking": (),
}


class InnerBlock(Body):
    """A piece of what a function returned."""

    hints: ClassVar = frozenset({"cache_control", "citations"})

    type: Literal["text"]
    text: Text


_InnerBlocks = Annotated[list[InnerBlock], Field(max_length=MAX_MESSAGES, fail_fast=True)]
_InnerContent = Annotated[
    Annotated[Text, Tag(PLAIN)] | Annotated[_InnerBlocks, Tag(LIST)],
    Discriminator(plain_or_list),
]


class AnthropicBlock(Body):
    """A piece of a message. What a model thought is not shown to it again."""

    hints: ClassVar = frozenset({"cache_control", "citations", "thinking", "signature", "data"})

    type: Literal["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]
    text: Text | None = None
    id: Annotated[Text, Field(max_length=256)] | None = None
    name: Text | None = None
    input: Object | None = None
    tool_use_id: Annotated[Text, Field(max_length=256)] | None = None
    content: _InnerContent | None = None
    is_error: bool | None = None


class AnthropicMessage(Body):
    role: Literal["user", "assistant"]
    content: Annotated[
        Annotated[Text, Tag(PLAIN)]
        | Annotated[
            list[AnthropicBlock],
            Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
            Tag(LIST),
        ],
        Discriminator(plain_or_list),
    ]


class AnthropicTool(Body):
    """type: tools that Anthropic's servers run themselves have other ones."""

    hints: ClassVar = frozenset({"cache_control"})

    type: Literal["custom"] | None = None
    name: Text
    description: Text | None = None
    input_schema: Object


class AnthropicChoice(Body):
    type: Literal["auto", "any", "none", "tool"]
    name: Text | None = None
    disable_parallel_tool_use: bool | None = None


class MessagesBody(Sampling):
    refused: ClassVar = {"thinking": ({"type": "disabled"},), "container": (), "mcp_servers": ([],)}
    hints: ClassVar = frozenset({"metadata", "service_tier"})

    # Clients have to name a number, and name large ones.
    max_tokens: Annotated[int, Field(ge=1)]
    messages: Annotated[
        list[AnthropicMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    system: _InnerContent | None = None
    stop_sequences: Annotated[list[Text], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: AnthropicChoice | None = None


class MessagesApi:
    """limits: of whoever asks. strict_fields: a field that means nothing is an error."""

    prefix = "msg"
    body: type[Body] = MessagesBody
    summary = "The answer to a conversation, as Anthropic's clients ask"

    def __init__(self, limits: GatewayLimits, *, strict_fields: bool = False) -> None:
        self._limits = limits
        self._strict_fields = strict_fields

    def job(self, value: dict[str, Any]) -> Job:
        """Raises ApiError naming the field that is wrong."""
        body, ignored = read(MessagesBody, value, strict_fields=self._strict_fields)
        chat, _ = read(ChatBody, _as_chat(body))
        return replace(job_of_chat(chat, ignored, self._limits, fits=True), has_ids=False)

    def shape(self, job: Job) -> MessagesShape:
        return MessagesShape(job)


def _as_chat(body: MessagesBody) -> dict[str, Any]:
    """The body of /v1/chat/completions that asks for the same."""
    messages = list[dict[str, Any]]()
    if body.system is not None:
        messages.append({"role": "system", "content": _text_of(body.system)})
    for place, message in enumerate(body.messages):
        messages += _messages_of(message, f"messages[{place}]")
    found: dict[str, Any] = {
        **as_openai(body),
        "messages": messages,
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences or None,
        "tools": [_tool_of(tool) for tool in body.tools or ()] or None,
    }
    if body.tool_choice is not None:
        chosen = body.tool_choice
        found["parallel_tool_calls"] = not chosen.disable_parallel_tool_use
        if chosen.type == "tool":
            if chosen.name is None:
                raise wrong("tool_choice.name", "this field is needed")
            named = {"type": "function", "function": {"name": chosen.name}}
            found["tool_choice"] = named
        else:
            found["tool_choice"] = _CHOICES[chosen.type]
    return found


def _tool_of(tool: AnthropicTool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"type": "function", "function": function}


def _messages_of(message: AnthropicMessage, path: str) -> Iterator[dict[str, Any]]:
    """The messages of a chat that say the same: what functions returned has one for each."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    texts, calls = list[str](), list[dict[str, Any]]()
    has_results = False
    for place, block in enumerate(message.content):
        _check_block(block, message.role, f"{path}.content[{place}]")
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "tool_use":
            function = {"name": block.name, "arguments": compact(block.input)}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type == "tool_result":
            has_results = True
            content = "" if block.content is None else _text_of(block.content)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
    if texts or calls or not has_results:
        told = {"role": message.role, "content": "".join(texts)}
        yield {**told, "tool_calls": calls} if calls else told


def _check_block(block: AnthropicBlock, role: str, path: str) -> None:
    for name in _NEEDED[block.type]:
        if getattr(block, name) is None:
            raise wrong(f"{path}.{name}", "this field is needed", "missing_required_parameter")
    if (block.type == "tool_result") != (role == "user") and block.type != "text":
        raise wrong(f"{path}.type", f"a {block.type} is not a part of messages of the {role}")


def _text_of(content: str | Sequence[InnerBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


class MessagesShape:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._reader = ItemReader(job)
        self._finish_reason: str | None = None

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        events = b""
        if delta.begins:
            message = {**_message(head, [], None), "usage": _usage(head.num_prompt_tokens, 0)}
            events = _event("message_start", message=message)
        for step in self._reader.read(delta):
            events += self._event_of(head, step)
        self._finish_reason = delta.finish_reason
        return events

    def _event_of(self, head: Head, step: Step) -> bytes:
        if step.what == "ends":
            return _event("content_block_stop", index=step.place)
        if step.what == "begins":
            block = _block(head, Item(step.item.kind, step.item.name, "", step.item.number))
            return _event("content_block_start", index=step.place, content_block=block)
        if step.item.kind == CALL:
            added = {"type": "input_json_delta", "partial_json": step.piece}
        elif step.item.kind == CONTENT:
            added = {"type": "text_delta", "text": step.piece}
        else:
            added = {"type": "thinking_delta", "thinking": step.piece}
        return _event("content_block_delta", index=step.place, delta=added)

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        reason = _stop_reason(self._finish_reason, self._reader.num_calls)
        return _event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": None},
            usage=_usage(usage["prompt_tokens"], usage["completion_tokens"]),
            airdraft=usage["airdraft"],
        ) + _event("message_stop")

    def failed(self, error: ApiError) -> bytes:
        return named_event("error", error.body())

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, Any]) -> bytes:
        (choice,) = choices
        items = items_of(self._job, choice.as_delta())
        num_calls = sum(item.kind == CALL for item in items)
        message = {
            **_message(
                head,
                [_block(head, item) for item in items],
                _stop_reason(choice.finish_reason, num_calls),
            ),
            "usage": _usage(usage["prompt_tokens"], usage["completion_tokens"]),
            "airdraft": usage["airdraft"],
        }
        return compact(message).encode()


def _event(kind: str, **fields: Any) -> bytes:
    return named_event(kind, {"type": kind, **fields})


def _message(head: Head, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    return {
        "id": head.object_id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
    }


def _usage(num_prompt_tokens: int, num_tokens: int) -> dict[str, int]:
    return {"input_tokens": num_prompt_tokens, "output_tokens": num_tokens}


def _stop_reason(reason: str | None, num_calls: int) -> str | None:
    if reason == "stop" and num_calls:
        return "tool_use"
    return _STOP_REASONS.get(reason or "", reason)


def _block(head: Head, item: Item) -> dict[str, Any]:
    if item.kind == CONTENT:
        return {"type": "text", "text": item.text}
    if item.kind == CALL:
        # What was cut off is no JSON, and so has no arguments that anybody could use.
        try:
            arguments = json.loads(item.text) if item.text else {}
        except ValueError:
            arguments = {}
        found = {"type": "tool_use", "id": call_id(head, 0, item.number), "name": item.name}
        return {**found, "input": arguments}
    return {"type": "thinking", "thinking": item.text, "signature": ""}
