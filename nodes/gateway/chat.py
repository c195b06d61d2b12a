"""/v1/chat/completions: bodies as jobs, and answers as this API writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from nodes.gateway.answers import Delta, ScoredToken
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
from nodes.messages import MAX_TOP_LOGPROBS, ChatMessage

ID_PREFIX: Final = "chatcmpl"
_KIND: Final = "chat.completion"
_ROLES: Final = ("system", "developer", "user", "assistant")
_UNSUPPORTED: Final[Fields] = {
    "tools": unsupported([]),
    "tool_choice": unsupported("none", "auto"),
    "parallel_tool_calls": unsupported(True, False),
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
                "name": hint,
                # Of an answer of ours that is sent back as it came.
                "refusal": unsupported(),
                "annotations": unsupported([]),
                "tool_calls": unsupported([]),
                "function_call": unsupported(),
                "audio": unsupported(),
            },
            required=("role", "content"),
        )
        self._fields: Fields = {
            **common_fields(limits),
            **_UNSUPPORTED,
            "messages": sequence(message, limits.max_messages, 1),
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
        messages = tuple(
            # Templates know the older name of the role.
            ChatMessage(m["role"].replace("developer", "system"), m["content"])
            for m in found["messages"]
        )
        if sum(len(m.content) for m in messages) > self._limits.max_prompt_chars:
            raise wrong("messages", f"{self._limits.max_prompt_chars} characters are accepted")
        if {"max_tokens", "max_completion_tokens"} <= found.keys():
            raise wrong("max_tokens", "give either this or max_completion_tokens")
        default = min(self._limits.default_max_tokens, self._limits.max_tokens)
        max_tokens = found.get("max_completion_tokens", found.get("max_tokens", default))
        has_logprobs = found.get("logprobs", False)
        if "top_logprobs" in found and not has_logprobs:
            raise wrong("top_logprobs", "this goes with logprobs: true only")
        num_logprobs = found.get("top_logprobs", 0) if has_logprobs else None
        return job_of(found, (messages,), options_of(found, max_tokens, num_logprobs))

    def shape(self, body: dict[str, Any], job: Job) -> ChatShape:
        return ChatShape(
            job.include_usage,
            has_logprobs=bool(body.get("logprobs")),
            tells_tokens=job.tells_tokens,
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


class ChatShape:
    def __init__(
        self, include_usage: bool, *, has_logprobs: bool, tells_tokens: bool = False
    ) -> None:
        self._writer = ChunkWriter(_KIND + ".chunk", include_usage=include_usage)
        self._has_logprobs = has_logprobs
        self._tells_tokens = tells_tokens

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        events = b""
        if delta.begins:
            if told is not None:
                events = told.line(delta.index)
            events += self._event(head, delta.index, '{"role":"assistant","content":""}')
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
                "message": {
                    "role": "assistant",
                    "content": "".join(choice.texts),
                    "refusal": None,
                },
                "logprobs": chat_logprobs(choice.tokens) if self._has_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        return whole_body(head, _KIND, written, usage)
