"""Serves /v1/responses for OpenAI's newer clients: turns bodies into chat bodies (chat.py) and
writes answers as items. Nothing is stored, so a client sends the whole conversation each time.

Source: OpenAI's API reference, Responses and their streaming events.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from airdraft.nodes.gateway.bodies import (
    Body,
    ChoiceOr,
    Items,
    Object,
    SomeItems,
    Text,
    TextOr,
    declared,
    missing,
    need,
    refusal,
    text_of,
)
from airdraft.nodes.gateway.chat import Effort, job_as_chat
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job, Sampling
from airdraft.nodes.gateway.items import Item, Step
from airdraft.nodes.gateway.reading import CALL, CONTENT
from airdraft.nodes.gateway.shape import Api, ItemShape, named_event
from airdraft.nodes.gateway.tools import call_json, named_json, tool_json

_IN_PROGRESS: Final = "in_progress"
_COMPLETED: Final = "completed"
_INCOMPLETE: Final = "incomplete"
# The fields that an item of each type needs.
_NEEDED: Final = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


# -- the body --------------------------------------------------------------------------------------


class ResponsesPart(Body):
    """A part of a message, of thoughts, or of the result of a function."""

    hints: ClassVar = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint", "refusal"})

    type: Literal["input_text", "output_text", "text", "reasoning_text", "refusal"]
    text: Text = ""


_Content = TextOr[Items[ResponsesPart]]


class InputItem(Body):
    """An item of the input; without a type it is a message. Earlier thoughts are left out."""

    hints: ClassVar = frozenset({"id", "status", "summary", "encrypted_content", "phase"})

    type: Literal["message", "function_call", "function_call_output", "reasoning"] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: _Content | None = None
    call_id: Annotated[Text, Field(max_length=256)] | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: _Content | None = None

    @property
    def kind(self) -> str:
        return self.type or "message"


class ResponsesTool(Body):
    """A function. Other types of tools, which OpenAI's servers run themselves, are refused."""

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


def _not_stored(_response_id: str) -> str:
    reason = "answers are not stored: send the whole conversation as input"
    raise refusal(reason, "unsupported_parameter")


class Reasoning(Body):
    hints: ClassVar = frozenset({"summary", "generate_summary"})

    effort: Effort | None = None


class ResponsesBody(Sampling):
    refused: ClassVar = {
        **Sampling.refused,
        "conversation": (),
        "background": (False,),
        "prompt": (),
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

    input: TextOr[SomeItems[InputItem]]
    previous_response_id: Annotated[str, AfterValidator(_not_stored)] | None = None
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponsesTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: ChoiceOr[ResponsesNamedTool] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None


# -- from the body to a job ------------------------------------------------------------------------


# Paths of the chat body -> paths of the body that the client sent, for errors.
_NAMES: Final = (
    (r"^messages.*", "input"),
    (r"^max_completion_tokens\b", "max_output_tokens"),
    (r"^response_format\.json_schema\b", "text.format"),
    (r"\.function\b", ""),
)


def _job(body: ResponsesBody, limits: GatewayLimits) -> Job:
    return job_as_chat(_as_chat(body), limits, _NAMES, echoed=_echoed(body))


def _as_chat(body: ResponsesBody) -> dict[str, Any]:
    """The equivalent body of /v1/chat/completions."""
    messages = list[dict[str, Any]]()
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        messages += _messages_of(body.input)
    chosen = body.tool_choice
    return {
        **declared(body, Sampling),
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        "response_format": _response_format(body.text),
        "tools": [
            tool_json(tool.name, tool.description, tool.parameters) for tool in body.tools or ()
        ]
        or None,
        "tool_choice": named_json(chosen.name)
        if isinstance(chosen, ResponsesNamedTool)
        else chosen,
        "parallel_tool_calls": body.parallel_tool_calls,
        "reasoning_effort": body.reasoning.effort if body.reasoning is not None else None,
    }


def _response_format(text: TextOptions | None) -> dict[str, Any] | None:
    found = None if text is None else text.format
    if found is None:
        return None
    if found.type != "json_schema":
        return {"type": found.type}
    if found.schema_ is None:
        raise missing("text.format.schema")
    return {"type": found.type, "json_schema": {"schema": found.schema_}}


def _messages_of(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """The equivalent chat messages; calls are added to the assistant's message before them."""
    messages = list[dict[str, Any]]()
    for place, item in enumerate(items):
        need(item, _NEEDED[item.kind], f"input[{place}]")
        if item.kind == "message":
            messages.append({"role": item.role, "content": text_of(item.content)})
        elif item.kind == "function_call_output":
            fields = {"role": "tool", "tool_call_id": item.call_id}
            messages.append({**fields, "content": text_of(item.output)})
        elif item.kind == "function_call":
            call = call_json(item.call_id or "", item.name or "", item.arguments or "")
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
    return messages


def _echoed(body: ResponsesBody) -> dict[str, Any]:
    """The declared fields of the request that clients expect an answer to repeat."""
    found = body.text.format if body.text is not None else None
    fields: dict[str, Any] = {"type": "text"}
    if found is not None:
        fields = {"type": found.type}
        if found.schema_ is not None:
            fields |= {"name": found.name, "schema": found.schema_, "strict": found.strict}
    chosen: Any = body.tool_choice or "auto"
    if isinstance(chosen, ResponsesNamedTool):
        chosen = declared(chosen)
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "text": {"format": fields},
        "tool_choice": chosen,
        "tools": [
            {**declared(tool), "strict": tool.strict is not False} for tool in body.tools or ()
        ],
    }


# -- from an answer's items to events and a document -----------------------------------------------


class ResponsesShape(ItemShape):
    """Writes an answer; its events are numbered."""

    _num_events = 0

    def begun(self) -> bytes:
        response = self._response("in_progress", [])
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def events_of(self, step: Step) -> Iterator[bytes]:
        kind, is_call = step.item.kind, step.item.kind == CALL
        status = _status(step.reason) if step.what == "ends" else _IN_PROGRESS
        item = self._item(step.item, status)
        where: dict[str, Any] = {"item_id": item["id"], "output_index": step.place}
        named = "response.function_call_arguments"
        if not is_call:
            where["content_index"] = 0
            named = "response.output_text" if kind == CONTENT else "response.reasoning_text"
        more: dict[str, Any] = {"logprobs": []} if kind == CONTENT else {}
        match step.what:
            case "begins":
                empty = {**item, "arguments": ""} if is_call else {**item, "content": []}
                yield self._event("response.output_item.added", output_index=step.place, item=empty)
                if not is_call:
                    part = item["content"][0]
                    yield self._event("response.content_part.added", **where, part=part)
            case "grows":
                yield self._event(f"{named}.delta", **where, delta=step.piece, **more)
            case _:
                if is_call:
                    fields = {"arguments": step.item.text, "name": step.item.name}
                    yield self._event(f"{named}.done", **where, **fields)
                else:
                    yield self._event(f"{named}.done", **where, text=step.item.text, **more)
                    part = item["content"][0]
                    yield self._event("response.content_part.done", **where, part=part)
                yield self._event("response.output_item.done", output_index=step.place, item=item)

    def ended(self, document: dict[str, Any]) -> bytes:
        return self._event(f"response.{document['status']}", response=document)

    def failed(self, error: ApiError) -> bytes:
        fields = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("error", **fields)

    def document(self, items: list[Item], reason: str | None) -> dict[str, Any]:
        status, usage = _status(reason), self._answers.usage()
        # Only the last item can be cut off.
        ends = [*[_COMPLETED] * (len(items) - 1), status]
        output = [self._item(item, end) for item, end in zip(items, ends, strict=False)]
        response = self._response(status, output)
        if status == _INCOMPLETE:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        return {**response, "airdraft": usage["airdraft"]}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        return named_event(kind, sequence_number=number, **fields)

    def _response(self, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        options = self._job.options
        return {
            "id": self._answers.object_id,
            "object": "response",
            "created_at": self._answers.created_unix,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._answers.model,
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

    def _item(self, item: Item, status: str) -> dict[str, Any]:
        """An item of the output. Its id is the same each time the answer is written."""
        if item.kind == CALL:
            named = self.call_id(item)
            if status == _COMPLETED and item.arguments is None:
                # A stop text has cut them off.
                status = _INCOMPLETE
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
            fields = {"type": "message", "role": "assistant", "content": [part], "status": status}
            return {"id": self._answers.object_id.replace("resp-", "msg-"), **fields}
        thoughts = [{"type": "reasoning_text", "text": item.text}]
        identity = self._answers.object_id.replace("resp-", "rs-")
        return {"id": identity, "type": "reasoning", "summary": [], "content": thoughts}


def _status(reason: str | None) -> str:
    return _INCOMPLETE if reason == "length" else _COMPLETED


RESPONSES: Final = Api(
    "resp", ResponsesBody, "Answer a conversation (OpenAI's Responses API)", _job, ResponsesShape
)
