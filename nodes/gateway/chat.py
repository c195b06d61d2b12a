"""/v1/chat/completions: bodies as jobs, and answers as this API writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.calls import CallReader, Part
from nodes.gateway.config import GatewayLimits
from nodes.gateway.fields import Job, common_fields, job_of, options_of
from nodes.gateway.logprobs import chat_logprobs
from nodes.gateway.resuming import Told
from nodes.gateway.schema import (
    Fields,
    boolean,
    check,
    hint,
    integer,
    obj,
    one_of,
    sequence,
    string,
    unsupported,
    wrong,
)
from nodes.gateway.shape import ChunkWriter, Head, Whole, whole_body
from nodes.gateway.tools import CALLS, TOOLS, choice, for_template, tools_of
from nodes.messages import MAX_TOP_LOGPROBS, ChatMessage

ID_PREFIX: Final = "chatcmpl"
_KIND: Final = "chat.completion"
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_UNSUPPORTED: Final[Fields] = {
    "functions": unsupported([]),
    "function_call": unsupported("none", "auto"),
    "modalities": unsupported(["text"]),
    "audio": unsupported(),
    "prediction": hint,
    "reasoning_effort": unsupported(),
    "verbosity": unsupported(),
    "web_search_options": unsupported(),
    "safety_identifier": hint,
    "prompt_cache_key": hint,
}


class ChatFields:
    """The body of a request under certain limits."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        message = obj(
            {
                "role": one_of(*_ROLES),
                "content": self._content,
                "name": string(256),
                "tool_call_id": string(256),
                # Of an answer of ours that is sent back as it came.
                "refusal": unsupported(),
                "annotations": unsupported([]),
                "tool_calls": CALLS,
                "function_call": unsupported(),
                "audio": unsupported(),
            },
            required=("role",),
        )
        self._fields: Fields = {
            **common_fields(limits),
            **_UNSUPPORTED,
            "messages": sequence(message, limits.max_messages, 1),
            "tools": TOOLS,
            "tool_choice": choice,
            "parallel_tool_calls": boolean,
            "max_tokens": integer(1, limits.max_tokens),
            "max_completion_tokens": integer(1, limits.max_tokens),
            "logprobs": boolean,
            "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
        }

    def job(self, body: dict[str, Any]) -> Job:
        """Raises ApiError naming the field that is wrong."""
        found = check(body, self._fields)
        if "messages" not in found:
            raise wrong("messages", "this field is needed", "missing_required_parameter")
        messages = tuple(_message(m, f"messages[{k}]") for k, m in enumerate(found["messages"]))
        tools = tools_of(found)
        tools_text = for_template(tools, found["messages"])
        num_chars = sum(len(m.content) for m in messages) + len(tools_text)
        if num_chars > self._limits.max_prompt_chars:
            raise wrong("messages", f"{self._limits.max_prompt_chars} characters are accepted")
        if {"max_tokens", "max_completion_tokens"} <= found.keys():
            raise wrong("max_tokens", "give either this or max_completion_tokens")
        default = min(self._limits.default_max_tokens, self._limits.max_tokens)
        max_tokens = found.get("max_completion_tokens", found.get("max_tokens", default))
        has_logprobs = found.get("logprobs", False)
        if "top_logprobs" in found and not has_logprobs:
            raise wrong("top_logprobs", "this goes with logprobs: true only")
        num_logprobs = found.get("top_logprobs", 0) if has_logprobs else None
        options = replace(options_of(found, max_tokens, num_logprobs), tools=tools_text)
        return job_of(found, (messages,), options, tools=tools)

    def shape(self, body: dict[str, Any], job: Job) -> ChatShape:
        return ChatShape(
            job.include_usage,
            has_logprobs=bool(body.get("logprobs")),
            tells_tokens=job.tells_tokens,
            tool_style=job.tool_style,
            tool_names=job.tools.names if job.tools is not None else (),
        )

    def _content(self, value: Any, path: str) -> str:
        """A text, or a list of parts that are texts."""
        text = string(self._limits.max_prompt_chars)
        if not isinstance(value, list):
            content: str = text(value, path)
            return content
        part = obj({"type": one_of("text"), "text": text}, required=("type", "text"))
        parts = sequence(part, self._limits.max_messages, 1)(value, path)
        joined = "".join(entry["text"] for entry in parts)
        content = text(joined, path)
        return content


def _message(found: dict[str, Any], path: str) -> ChatMessage:
    """A checked message, as templates take it."""
    role = found["role"]
    if "content" not in found and not (role == "assistant" and found.get("tool_calls")):
        raise wrong(f"{path}.content", "this field is needed", "missing_required_parameter")
    if role == "tool" and "tool_call_id" not in found:
        raise wrong(f"{path}.tool_call_id", "this field is needed", "missing_required_parameter")
    if found.get("tool_calls") and role != "assistant":
        raise wrong(f"{path}.tool_calls", "this goes with the role assistant only")
    if "name" in found and role != "tool":
        hint(found["name"], f"{path}.name")
    # Templates know the older name of the role.
    return ChatMessage(role.replace("developer", "system"), found.get("content", ""))


class ChatShape:
    """tool_style: how the model writes calls, where it may; "" where it may not. tool_names: of
    what it may call."""

    def __init__(
        self,
        include_usage: bool,
        *,
        has_logprobs: bool,
        tells_tokens: bool = False,
        tool_style: str = "",
        tool_names: Collection[str] = (),
    ) -> None:
        self._writer = ChunkWriter(_KIND + ".chunk", include_usage=include_usage)
        self._has_logprobs = has_logprobs
        self._tells_tokens = tells_tokens
        self._tool_style = tool_style
        self._tool_names = tool_names
        # By choice.
        self._readers: dict[int, CallReader] = {}

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        events = b""
        if delta.begins:
            if told is not None:
                events = told.line(delta.index)
            events += self._event(head, delta.index, '{"role":"assistant","content":""}')
        if self._tool_style:
            return events + self._chunks_of_calls(head, delta)
        if delta.text or delta.tokens:
            if told is not None:
                events += told.line(delta.index, delta.text, len(delta.tokens))
            logprobs = "null"
            if self._has_logprobs and delta.tokens:
                logprobs = json.dumps(chat_logprobs(delta.tokens))
            added = f'{{"content":{json.dumps(delta.text)}}}'
            shown = delta.tokens if self._tells_tokens else ()
            events += self._event(head, delta.index, added, logprobs, shown=shown)
        if delta.finish_reason is not None:
            if told is not None:
                events += told.line(delta.index, ends=True)
            reason = f'"{delta.finish_reason}"'
            events += self._event(head, delta.index, "{}", reason=reason)
        return events

    def _reader(self) -> CallReader:
        return CallReader(self._tool_style, self._tool_names)

    def _chunks_of_calls(self, head: Head, delta: Delta) -> bytes:
        """What a piece of text adds to content and calls. Tokens go with its first content."""
        reader = self._readers.setdefault(delta.index, self._reader())
        is_last = delta.finish_reason is not None
        tokens, events = delta.tokens, b""
        for part in reader.read(delta.text, is_last=is_last):
            if part.content:
                logprobs = json.dumps(chat_logprobs(tokens)) if self._has_logprobs else "null"
                shown, tokens = tokens if self._tells_tokens else (), ()
                added = f'{{"content":{json.dumps(part.content)}}}'
                events += self._event(head, delta.index, added, logprobs, shown=shown)
            else:
                added = json.dumps({"tool_calls": [_call_delta(head, delta.index, part)]})
                events += self._event(head, delta.index, added)
        if is_last:
            reason = _reason(delta.finish_reason, reader.num_calls)
            events += self._event(head, delta.index, "{}", reason=json.dumps(reason))
        return events

    def _event(
        self,
        head: Head,
        index: int,
        added: str,
        logprobs: str = "null",
        reason: str = "null",
        shown: Sequence[ScoredToken] = (),
    ) -> bytes:
        return self._writer.choice(
            head,
            f'{{"index":{index},"delta":{added},"logprobs":{logprobs},"finish_reason":{reason}}}',
            shown,
        )

    def usage_chunk(self, head: Head, usage: dict[str, object]) -> bytes:
        return self._writer.usage(head, usage)

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, object]) -> bytes:
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
        text, calls = "".join(choice.texts), list[dict[str, Any]]()
        if self._tool_style:
            reader, contents = self._reader(), list[str]()
            for part in reader.read(text, is_last=True):
                contents.append(part.content)
                if part.name:
                    call = _call_delta(head, index, part)
                    del call["index"]
                    calls.append(call)
                elif part.arguments:
                    calls[-1]["function"]["arguments"] += part.arguments
            text = "".join(contents)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        reason = _reason(choice.finish_reason, len(calls))
        return {"message": message, "finish_reason": reason}


def _reason(finish_reason: str | None, num_calls: int) -> str | None:
    return "tool_calls" if finish_reason == "stop" and num_calls else finish_reason


def _call_delta(head: Head, choice: int, part: Part) -> dict[str, Any]:
    """A call's beginning, or more of its arguments. Its id is the same however often it is told."""
    function = {"arguments": part.arguments}
    if not part.name:
        return {"index": part.number, "function": function}
    of_all = f"{head.object_id}/{choice}/{part.number}".encode()
    return {
        "index": part.number,
        "id": f"call_{hashlib.sha256(of_all).hexdigest()[:24]}",
        "type": "function",
        "function": {"name": part.name, **function},
    }
