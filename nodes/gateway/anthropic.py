"""Serves /v1/messages for Anthropic's clients: turns bodies into chat bodies (chat.py) and writes
answers in Anthropic's form.

Source: Anthropic's API reference, Messages and streaming of messages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from airdraft.nodes.engine.chat.tools import switch_of
from airdraft.nodes.gateway.bodies import (
    Body,
    Hint,
    Items,
    Object,
    SomeItems,
    Text,
    TextOr,
    compact,
    declared,
    need,
    text_of,
    wrong,
)
from airdraft.nodes.gateway.chat import job_as_chat
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job, Sampling
from airdraft.nodes.gateway.items import Item, Step, finish_reason
from airdraft.nodes.gateway.reading import CALL, CONTENT
from airdraft.nodes.gateway.shape import Api, ItemShape, named_event
from airdraft.nodes.gateway.tools import call_json, named_json, tool_json

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_CHOICES: Final = {"auto": "auto", "none": "none", "any": "required"}
# Coding agents begin the system prompt with a line for their own accounts, which is another one in
# each request. No text after it could be reused.
_BILLING: Final = "x-anthropic-billing-header:"
# The fields that a block of each type needs.
_NEEDED: Final = {
    "text": ("text",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": (),
    "redacted_thinking": (),
}


class InnerBlock(Body):
    """A part of a function's result."""

    hints: ClassVar = frozenset({"cache_control", "citations"})

    type: Literal["text"]
    text: Text


_InnerContent = TextOr[Items[InnerBlock]]


class AnthropicBlock(Body):
    """A part of a message. Earlier thoughts are accepted but left out of the prompt."""

    hints: ClassVar = frozenset(
        {"cache_control", "citations", "thinking", "signature", "data", "is_error"}
    )

    type: Literal["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]
    text: Text | None = None
    id: Annotated[Text, Field(max_length=256)] | None = None
    name: Text | None = None
    input: Object | None = None
    tool_use_id: Annotated[Text, Field(max_length=256)] | None = None
    content: _InnerContent | None = None


class AnthropicMessage(Body):
    role: Literal["user", "assistant", "system"]
    content: TextOr[SomeItems[AnthropicBlock]]


class AnthropicTool(Body):
    """Only tools that the client runs (`custom`) are accepted; those of Anthropic's servers have
    other types."""

    hints: ClassVar = frozenset({"cache_control"})

    type: Literal["custom"] | None = None
    name: Text
    description: Text | None = None
    input_schema: Object


class AnthropicChoice(Body):
    type: Literal["auto", "any", "none", "tool"]
    name: Text | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """budget_tokens: has no effect, because a model's thoughts have no limit of their own."""

    hints: ClassVar = frozenset({"display"})

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class AnthropicFormat(Body):
    type: Literal["json_schema"]
    schema_: Object = Field(alias="schema")


class OutputConfig(Body):
    hints: ClassVar = frozenset({"effort", "task_budget"})

    format: AnthropicFormat | None = None


class MessagesBody(Sampling):
    refused: ClassVar = {**Sampling.refused, "container": (), "mcp_servers": ([],)}
    hints: ClassVar = frozenset({"metadata", "service_tier"})

    # Clients must send a number and often send a very large one: it is lowered to what fits.
    max_tokens: Annotated[int, Field(ge=1)]
    messages: SomeItems[AnthropicMessage]
    system: _InnerContent | None = None
    stop_sequences: list[Text] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


# Paths of the chat body -> paths of the body that the client sent, for errors.
_NAMES: Final = (
    (r"^messages.*", "messages"),
    (r"^stop\b", "stop_sequences"),
    (r"^response_format\.json_schema\b", "output_config.format"),
    (r"\.function\b", ""),
)


def _job(body: MessagesBody, limits: GatewayLimits) -> Job:
    left_out = () if isinstance(body.system, str) else _billing_lines(body.system or ())
    job = job_as_chat(_as_chat(body), limits, _NAMES, fits=True)
    return replace(job, ignored=tuple(Hint(f"system[{place}]", True) for place in left_out))


def _billing_lines(blocks: Sequence[InnerBlock]) -> list[int]:
    """Returns the places of the blocks that no model should read."""
    return [place for place, block in enumerate(blocks) if block.text.startswith(_BILLING)]


def _as_chat(body: MessagesBody) -> dict[str, Any]:
    """The equivalent body of /v1/chat/completions."""
    messages = list[dict[str, Any]]()
    if body.system is not None:
        system = body.system
        if not isinstance(system, str):
            left_out = _billing_lines(system)
            system = [block for place, block in enumerate(system) if place not in left_out]
        messages.append({"role": "system", "content": text_of(system)})
    for place, message in enumerate(body.messages):
        messages += _messages_of(message, f"messages[{place}]")
    found: dict[str, Any] = {
        **declared(body, Sampling),
        "messages": messages,
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences or None,
        "tools": [
            tool_json(tool.name, tool.description, tool.input_schema) for tool in body.tools or ()
        ]
        or None,
    }
    if body.output_config is not None and (wanted := body.output_config.format) is not None:
        schema = {"schema": wanted.schema_}
        found["response_format"] = {"type": wanted.type, "json_schema": schema}
    if body.thinking is not None and body.thinking.type != "adaptive":
        found["chat_template_kwargs"] = switch_of(body.thinking.type == "enabled")
    if (chosen := body.tool_choice) is not None:
        found["parallel_tool_calls"] = not chosen.disable_parallel_tool_use
        if chosen.type == "tool":
            need(chosen, ("name",), "tool_choice")
            found["tool_choice"] = named_json(chosen.name or "")
        else:
            found["tool_choice"] = _CHOICES[chosen.type]
    return found


def _messages_of(message: AnthropicMessage, path: str) -> Iterator[dict[str, Any]]:
    """Yields the equivalent chat messages; each result of a tool becomes a message of its own."""
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
            calls.append(call_json(block.id or "", block.name or "", compact(block.input)))
        elif block.type == "tool_result":
            has_results = True
            content = "" if block.content is None else text_of(block.content)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
    if texts or calls or not has_results:
        fields = {"role": message.role, "content": "".join(texts)}
        yield {**fields, "tool_calls": calls} if calls else fields


def _check_block(block: AnthropicBlock, role: str, path: str) -> None:
    need(block, _NEEDED[block.type], path)
    if role == "system" and block.type != "text":
        raise wrong(f"{path}.type", "a message with the role system has text only")
    if (block.type == "tool_result") != (role == "user") and block.type != "text":
        reason = f"a block of type {block.type} is not allowed in a message with the role {role}"
        raise wrong(f"{path}.type", reason)


class MessagesShape(ItemShape):
    def begun(self) -> bytes:
        # What of it was cached is known at the end.
        usage = _usage(self._answers.num_prompt_tokens, 0, 0)
        message = {**self._message([], None), "usage": usage}
        return named_event("message_start", message=message)

    def events_of(self, step: Step) -> Iterator[bytes]:
        if step.what == "ends":
            yield named_event("content_block_stop", index=step.place)
        elif step.what == "begins":
            block = self._block(step.item)
            yield named_event("content_block_start", index=step.place, content_block=block)
        else:
            added = {"type": "thinking_delta", "thinking": step.piece}
            if step.item.kind == CALL:
                added = {"type": "input_json_delta", "partial_json": step.piece}
            elif step.item.kind == CONTENT:
                added = {"type": "text_delta", "text": step.piece}
            yield named_event("content_block_delta", index=step.place, delta=added)

    def ended(self, document: dict[str, Any]) -> bytes:
        delta = {name: document[name] for name in ("stop_reason", "stop_sequence")}
        rest = {name: document[name] for name in ("usage", "airdraft")}
        return named_event("message_delta", delta=delta, **rest) + named_event("message_stop")

    def document(self, items: list[Item], reason: str | None) -> dict[str, Any]:
        blocks = [self._block(item) for item in items]
        reason, usage = finish_reason(reason, items), self._answers.usage()
        return {
            **self._message(blocks, _STOP_REASONS.get(reason or "", reason)),
            "usage": _usage(
                usage["prompt_tokens"],
                usage["prompt_tokens_details"]["cached_tokens"],
                usage["completion_tokens"],
            ),
            "airdraft": usage["airdraft"],
        }

    def failed(self, error: ApiError) -> bytes:
        return named_event("error", error=error.body()["error"])

    def _message(self, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
        return {
            "id": self._answers.object_id,
            "type": "message",
            "role": "assistant",
            "model": self._answers.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
        }

    def _block(self, item: Item) -> dict[str, Any]:
        if item.kind == CONTENT:
            return {"type": "text", "text": item.text}
        if item.kind == CALL:
            found = {"type": "tool_use", "id": self.call_id(item), "name": item.name}
            # Arguments that were cut off are left out.
            return {**found, "input": item.arguments or {}}
        return {"type": "thinking", "thinking": item.text, "signature": ""}


def _usage(num_prompt_tokens: int, num_cached: int, num_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": num_prompt_tokens - num_cached,
        "cache_read_input_tokens": num_cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": num_tokens,
    }


MESSAGES: Final = Api(
    "msg", MessagesBody, "Answer a conversation (Anthropic's Messages API)", _job, MessagesShape
)
