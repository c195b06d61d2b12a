"""/v1/chat/completions: bodies as jobs, and answers as this API writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.bodies import LIST, PLAIN, Body, Hint, Text, plain_or_list, read, wrong
from nodes.gateway.calls import Part
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.fields import Job, OpenAiBody, job_of, options_of
from nodes.gateway.logprobs import chat_logprobs
from nodes.gateway.reading import CALL, CONTENT, REASONING, Readers, items_of
from nodes.gateway.resuming import Told
from nodes.gateway.shape import ChunkWriter, Head, Whole, call_id, finish_reason, whole_body
from nodes.gateway.tools import CallList, ToolChoice, ToolList, call_fields, for_template, tools_of
from nodes.messages import MAX_MESSAGES, MAX_TOP_LOGPROBS, ChatMessage

_KIND: Final = "chat.completion"


class TextPart(Body):
    type: Literal["text"]
    text: Text


Content = Annotated[
    Annotated[Text, Tag(PLAIN)]
    | Annotated[
        list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag(LIST)
    ],
    Discriminator(plain_or_list),
]


class MessageBody(Body):
    """What answers of ours have, and is sent back as it came, is accepted."""

    refused: ClassVar = {"refusal": (), "annotations": ([],), "function_call": (), "audio": ()}
    # What a model thought is not shown to it again: templates leave it out of past answers.
    hints: ClassVar = frozenset({"reasoning_content"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[Text, Field(max_length=256)] | None = None
    tool_call_id: Annotated[Text, Field(max_length=256)] | None = None
    tool_calls: CallList | None = None

    def unused(self) -> tuple[str, ...]:
        return ("name",) if self.name is not None and self.role != "tool" else ()

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(OpenAiBody):
    refused: ClassVar = {
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
    }
    hints: ClassVar = OpenAiBody.hints | {"prediction", "safety_identifier", "prompt_cache_key"}

    messages: Annotated[
        list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    tools: ToolList | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class ChatApi:
    """limits: of whoever asks. strict_fields: a field that means nothing is an error."""

    prefix = "chatcmpl"
    body: type[Body] = ChatBody
    summary = "The answer to a conversation"

    def __init__(self, limits: GatewayLimits, *, strict_fields: bool = False) -> None:
        self._limits = limits
        self._strict_fields = strict_fields

    def job(self, value: dict[str, Any]) -> Job:
        """Raises ApiError naming the field that is wrong."""
        body, ignored = read(ChatBody, value, strict_fields=self._strict_fields)
        return job_of_chat(body, ignored, self._limits)

    def shape(self, job: Job) -> ChatShape:
        return ChatShape(job)


def job_of_chat(
    body: ChatBody, ignored: tuple[Hint, ...], limits: GatewayLimits, *, fits: bool = False
) -> Job:
    """fits: the number of tokens that is asked for is a wish; it is, too, where none is asked for.

    Raises ApiError naming the field that is wrong.
    """
    if len(body.messages) > limits.max_messages:
        raise wrong("messages", f"{limits.max_messages} entries at most are accepted")
    messages, fields = list[ChatMessage](), dict[int, dict[str, Any]]()
    for place, message in enumerate(body.messages):
        _check_message(message, f"messages[{place}]", limits)
        # Templates know the older name of the role.
        messages.append(ChatMessage(message.role.replace("developer", "system"), message.text))
        if found := _template_fields(message):
            fields[place] = found
    tools = tools_of(body.tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)
    tools_text = for_template(tools, fields)
    if sum(len(m.content) for m in messages) + len(tools_text) > limits.max_prompt_chars:
        raise wrong("messages", f"{limits.max_prompt_chars} characters are accepted")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise wrong("max_tokens", "give either this or max_completion_tokens")
    given = body.max_completion_tokens or body.max_tokens
    if given is not None and given > limits.max_tokens and not fits:
        name = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
        raise wrong(name, f"{limits.max_tokens} at most are accepted")
    has_logprobs = bool(body.logprobs)
    if body.top_logprobs is not None and not has_logprobs:
        raise wrong("top_logprobs", "this goes with logprobs: true only")
    num_logprobs = body.top_logprobs or 0 if has_logprobs else None
    max_tokens = min(given or limits.max_tokens, limits.max_tokens)
    options = options_of(body, limits, max_tokens, num_logprobs)
    return job_of(
        body,
        ignored,
        (tuple(messages),),
        replace(options, tools=tools_text, fits=fits or given is None),
        tools=tools,
        has_logprobs=has_logprobs,
    )


def _check_message(message: MessageBody, path: str, limits: GatewayLimits) -> None:
    is_answer = message.role == "assistant"
    if message.content is None and not (is_answer and message.tool_calls):
        raise wrong(f"{path}.content", "this field is needed", "missing_required_parameter")
    if len(message.text) > limits.max_prompt_chars:
        raise wrong(f"{path}.content", f"{limits.max_prompt_chars} characters are accepted")
    if message.role == "tool" and message.tool_call_id is None:
        raise wrong(f"{path}.tool_call_id", "this field is needed", "missing_required_parameter")
    if message.tool_calls and not is_answer:
        raise wrong(f"{path}.tool_calls", "this goes with the role assistant only")


def _template_fields(message: MessageBody) -> dict[str, Any]:
    """What the chat template needs of a message besides role and content."""
    found: dict[str, Any] = {}
    if message.role == "tool":
        found = {"tool_call_id": message.tool_call_id, "name": message.name}
        found = {name: value for name, value in found.items() if value is not None}
    if message.tool_calls:
        found["tool_calls"] = call_fields(message.tool_calls)
    return found


class ChatShape:
    def __init__(self, job: Job) -> None:
        self._writer = ChunkWriter(_KIND + ".chunk", include_usage=job.include_usage)
        self._has_logprobs = job.has_logprobs
        self._tells_tokens = job.tells_tokens
        self._job = job
        self._readers = Readers(job)

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        events = b""
        if delta.begins:
            if told is not None:
                events = told.line(delta.index)
            events += self._event(head, delta.index, '{"role":"assistant","content":""}')
        if self._readers.are_needed:
            return events + self._chunks_of_parts(head, delta)
        if delta.text or delta.tokens:
            if told is not None:
                events += told.line(delta.index, delta.text, len(delta.tokens))
            added = f'{{"content":{json.dumps(delta.text)}}}'
            events += self._event(head, delta.index, added, delta.tokens)
        if delta.finish_reason is not None:
            if told is not None:
                events += told.line(delta.index, ends=True)
            events += self._event(head, delta.index, "{}", reason=delta.finish_reason)
        return events

    def _chunks_of_parts(self, head: Head, delta: Delta) -> bytes:
        """What a piece of text adds to thoughts, content and calls. Tokens go with its first
        content."""
        tokens, events = delta.tokens, b""
        for part in self._readers.parts(delta):
            if part.content:
                added = f'{{"content":{json.dumps(part.content)}}}'
                events += self._event(head, delta.index, added, tokens)
                tokens = ()
            elif part.reasoning:
                added = json.dumps({"reasoning_content": part.reasoning})
                events += self._event(head, delta.index, added)
            else:
                added = json.dumps({"tool_calls": [_call_delta(head, delta.index, part)]})
                events += self._event(head, delta.index, added)
        if delta.finish_reason is not None:
            num_calls = self._readers.num_calls(delta.index)
            reason = finish_reason(delta.finish_reason, num_calls)
            events += self._event(head, delta.index, "{}", reason=reason)
        return events

    def _event(
        self,
        head: Head,
        index: int,
        added: str,
        tokens: Sequence[ScoredToken] = (),
        reason: str | None = None,
    ) -> bytes:
        has_logprobs = self._has_logprobs and tokens
        logprobs = json.dumps(chat_logprobs(tokens)) if has_logprobs else "null"
        return self._writer.choice(
            head,
            f'{{"index":{index},"delta":{added},"logprobs":{logprobs},'
            f'"finish_reason":{json.dumps(reason)}}}',
            tokens if self._tells_tokens else (),
        )

    def end(self, head: Head, usage: dict[str, Any], told: Told | None = None) -> bytes:
        return self._writer.end(head, usage, told)

    def failed(self, error: ApiError) -> bytes:
        return error.event()

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, Any]) -> bytes:
        written: list[dict[str, Any]] = [
            {
                "index": index,
                **self._message(head, index, choice),
                "logprobs": chat_logprobs(choice.tokens) if self._has_logprobs else None,
            }
            for index, choice in enumerate(choices)
        ]
        return whole_body(head, _KIND, written, usage)

    def _message(self, head: Head, index: int, choice: Whole) -> dict[str, Any]:
        items = items_of(self._job, choice.as_delta())
        content = "".join(item.text for item in items if item.kind == CONTENT)
        reasoning = "".join(item.text for item in items if item.kind == REASONING)
        calls = [item for item in items if item.kind == CALL]
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["content"] = content or None
            message["tool_calls"] = [
                {
                    "id": call_id(head, index, place),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.text},
                }
                for place, call in enumerate(calls)
            ]
        return {
            "message": message,
            "finish_reason": finish_reason(choice.finish_reason, len(calls)),
        }


def _call_delta(head: Head, choice: int, part: Part) -> dict[str, Any]:
    """A call's beginning, or more of its arguments."""
    function = {"arguments": part.arguments}
    if not part.name:
        return {"index": part.number, "function": function}
    return {
        "index": part.number,
        "id": call_id(head, choice, part.number),
        "type": "function",
        "function": {"name": part.name, **function},
    }
