"""/v1/responses, as OpenAI's newer clients send it: a conversation like those of chat.py, in other
words. Nothing is stored, so a conversation is sent whole each time.

Source: OpenAI's API reference, Responses and their streaming events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag

from nodes.gateway.answers import Delta
from nodes.gateway.bodies import (
    LIST,
    OBJECT,
    PLAIN,
    Body,
    Object,
    Text,
    compact,
    plain_or_list,
    plain_or_object,
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
from nodes.messages import MAX_MESSAGES

_MAX_ITEMS: Final = MAX_MESSAGES
_NEEDED: Final = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


class ResponsesPart(Body):
    hints: ClassVar = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})

    type: Literal["input_text", "output_text", "text"]
    text: Text


_Content = Annotated[
    Annotated[Text, Tag(PLAIN)]
    | Annotated[list[ResponsesPart], Field(max_length=_MAX_ITEMS, fail_fast=True), Tag(LIST)],
    Discriminator(plain_or_list),
]


class InputItem(Body):
    """A message where no type is given. What a model thought is not shown to it again."""

    hints: ClassVar = frozenset({"id", "status", "summary", "encrypted_content", "phase"})

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: _Content | None = None
    call_id: Annotated[Text, Field(max_length=256)] | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: _Content | None = None


class ResponsesTool(Body):
    """Other types are tools that OpenAI's servers run themselves."""

    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: Object | None = None
    strict: bool | None = None


class ResponsesNamedTool(Body):
    type: Literal["function"]
    name: Text


class ResponsesFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    schema_: Object | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    refused: ClassVar = {"verbosity": ("medium",)}

    format: ResponsesFormat | None = None


class ResponsesBody(Sampling):
    refused: ClassVar = {
        "previous_response_id": (),
        "conversation": (),
        "background": (False,),
        "prompt": (),
        "reasoning": ({},),
        "max_tool_calls": (),
        "top_logprobs": (0,),
        "truncation": ("disabled", "auto"),
    }
    hints: ClassVar = frozenset(
        {
            "metadata",
            "store",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "include",
            "stream_options",
        }
    )

    input: Annotated[
        Annotated[Text, Tag(PLAIN)]
        | Annotated[
            list[InputItem], Field(min_length=1, max_length=_MAX_ITEMS, fail_fast=True), Tag(LIST)
        ],
        Discriminator(plain_or_list),
    ]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponsesTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag(PLAIN)]
            | Annotated[ResponsesNamedTool, Tag(OBJECT)],
            Discriminator(plain_or_object),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None


class ResponsesApi:
    """limits: of whoever asks. strict_fields: a field that means nothing is an error."""

    prefix = "resp"
    body: type[Body] = ResponsesBody
    summary = "The answer to a conversation, as OpenAI's newer clients ask"

    def __init__(self, limits: GatewayLimits, *, strict_fields: bool = False) -> None:
        self._limits = limits
        self._strict_fields = strict_fields

    def job(self, value: dict[str, Any]) -> Job:
        """Raises ApiError naming the field that is wrong."""
        if value.get("previous_response_id") is not None:
            reason = "answers are not stored here: send the whole conversation as input"
            raise wrong("previous_response_id", reason, "unsupported_parameter")
        body, ignored = read(ResponsesBody, value, strict_fields=self._strict_fields)
        chat, _ = read(ChatBody, _as_chat(body))
        job = job_of_chat(chat, ignored, self._limits)
        return replace(job, has_ids=False, echoed=_echoed(body))

    def shape(self, job: Job) -> ResponsesShape:
        return ResponsesShape(job)


def _as_chat(body: ResponsesBody) -> dict[str, Any]:
    """The body of /v1/chat/completions that asks for the same."""
    messages = list[dict[str, Any]]()
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        messages += _messages_of(body.input)
    chosen = body.tool_choice
    return {
        **as_openai(body),
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        "response_format": _response_format(body.text),
        "tools": [
            {
                "type": "function",
                "function": tool.model_dump(include={"name", "description", "parameters"}),
            }
            for tool in body.tools or ()
        ]
        or None,
        "tool_choice": {"type": "function", "function": {"name": chosen.name}}
        if isinstance(chosen, ResponsesNamedTool)
        else chosen,
        "parallel_tool_calls": body.parallel_tool_calls,
    }


def _response_format(text: TextOptions | None) -> dict[str, Any] | None:
    found = None if text is None else text.format
    if found is None:
        return None
    if found.type != "json_schema":
        return {"type": found.type}
    if found.schema_ is None:
        raise wrong("text.format.schema", "this field is needed", "missing_required_parameter")
    return {"type": found.type, "json_schema": {"schema": found.schema_}}


def _messages_of(items: Sequence[InputItem]) -> Iterator[dict[str, Any]]:
    """The messages of a chat that say the same: calls that follow each other are of one answer."""
    calls = list[dict[str, Any]]()
    for place, item in enumerate(items):
        for name in _NEEDED[item.type]:
            if getattr(item, name) is None:
                path = f"input[{place}].{name}"
                raise wrong(path, "this field is needed", "missing_required_parameter")
        if item.type == "function_call":
            function = {"name": item.name, "arguments": item.arguments}
            calls.append({"id": item.call_id, "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "content": "", "tool_calls": calls}
            calls = []
        if item.type == "message":
            yield {"role": item.role, "content": _text_of(item.content)}
        elif item.type == "function_call_output":
            content = _text_of(item.output)
            yield {"role": "tool", "tool_call_id": item.call_id, "content": content}
    if calls:
        yield {"role": "assistant", "content": "", "tool_calls": calls}


def _text_of(content: str | Sequence[ResponsesPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _echoed(body: ResponsesBody) -> dict[str, Any]:
    """What an answer repeats of its request: clients expect these fields."""
    text = {"format": {"type": "text"}}
    if body.text is not None and body.text.format is not None:
        text["format"] = body.text.format.model_dump(exclude_none=True, by_alias=True)
    tools = [
        {"strict": True, "parameters": None, "description": None, **tool.model_dump()}
        for tool in body.tools or ()
    ]
    chosen = body.tool_choice
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "text": text,
        "tool_choice": chosen.model_dump()
        if isinstance(chosen, ResponsesNamedTool)
        else chosen or "auto",
        "tools": tools,
    }


class ResponsesShape:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._reader = ItemReader(job)
        self._finish_reason: str | None = None
        self._num_events = 0

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        events = b""
        if delta.begins:
            begun = self._response(head, "in_progress", [])
            events = self._event("response.created", response=begun)
            events += self._event("response.in_progress", response=begun)
        for step in self._reader.read(delta):
            item = _item(head, step.item, "completed" if step.what == "ends" else "in_progress")
            where = {"item_id": item["id"], "output_index": step.place}
            events += b"".join(self._events_of(step, item, where))
        self._finish_reason = delta.finish_reason
        return events

    def _events_of(
        self, step: Step, item: dict[str, Any], where: dict[str, Any]
    ) -> Iterator[bytes]:
        kind = step.item.kind
        place = {"output_index": step.place, "item": item}
        if kind == CALL:
            part, named = None, "response.function_call_arguments"
        else:
            where = {**where, "content_index": 0}
            part = item["content"][0] if item["content"] else None
            named = "response.output_text" if kind == CONTENT else "response.reasoning_text"
        more: dict[str, Any] = {"logprobs": []} if kind == CONTENT else {}
        match step.what:
            case "begins":
                empty = {**item, "arguments": ""} if kind == CALL else {**item, "content": []}
                yield self._event("response.output_item.added", **{**place, "item": empty})
                if part is not None:
                    yield self._event("response.content_part.added", **where, part=part)
            case "grows":
                yield self._event(f"{named}.delta", **where, delta=step.piece, **more)
            case _:
                if kind == CALL:
                    told = {"arguments": step.item.text, "name": step.item.name}
                    yield self._event(f"{named}.done", **where, **told)
                else:
                    yield self._event(f"{named}.done", **where, text=step.item.text, **more)
                    yield self._event("response.content_part.done", **where, part=part)
                yield self._event("response.output_item.done", **place)

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        items = [_item(head, item, "completed") for item in self._reader.items]
        response = self._whole(head, items, self._finish_reason, usage)
        return self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> bytes:
        told = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("error", **told)

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, Any]) -> bytes:
        (choice,) = choices
        items = [_item(head, i, "completed") for i in items_of(self._job, choice.as_delta())]
        return compact(self._whole(head, items, choice.finish_reason, usage)).encode()

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        return named_event(kind, {"type": kind, "sequence_number": number, **fields})

    def _whole(
        self, head: Head, items: list[dict[str, Any]], reason: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        is_cut = reason == "length"
        response = self._response(head, "incomplete" if is_cut else "completed", items)
        if is_cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        return {**response, "airdraft": usage["airdraft"]}

    def _response(self, head: Head, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        options = self._job.options
        return {
            "id": head.object_id,
            "object": "response",
            "created_at": head.created_unix,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": head.model,
            "output": items,
            **self._job.echoed,
            "previous_response_id": None,
            "store": False,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "truncation": "disabled",
            "metadata": {},
            "usage": None,
        }


def _item(head: Head, item: Item, status: str) -> dict[str, Any]:
    """An item of the output, with an id that is the same however often the answer is told."""
    if item.kind == CALL:
        named = call_id(head, 0, item.number)
        return {
            "type": "function_call",
            "id": named.replace("call_", "fc_"),
            "call_id": named,
            "name": item.name,
            "arguments": item.text,
            "status": status,
        }
    if item.kind == CONTENT:
        part = {"type": "output_text", "text": item.text, "annotations": [], "logprobs": []}
        told = {"type": "message", "role": "assistant", "content": [part], "status": status}
        return {"id": head.object_id.replace("resp-", "msg-"), **told}
    thoughts = [{"type": "reasoning_text", "text": item.text}]
    identity = head.object_id.replace("resp-", "rs-")
    return {"id": identity, "type": "reasoning", "summary": [], "content": thoughts}
