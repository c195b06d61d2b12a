"""/v1/completions: bodies as jobs, and answers as this API writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from mesh.shared_numbers import shared
from nodes.gateway.answers import Delta
from nodes.gateway.config import GatewayLimits
from nodes.gateway.fields import Job, common_fields, job_of, options_of
from nodes.gateway.logprobs import CompletionLogprobs
from nodes.gateway.resuming import Told
from nodes.gateway.schema import Fields, boolean, check, integer, string, unsupported, wrong
from nodes.gateway.shape import ChunkWriter, Head, Whole, whole_body
from nodes.generation import Prompt
from nodes.messages import MAX_TOP_LOGPROBS

ID_PREFIX: Final = "cmpl"
_KIND: Final = "text_completion"
# What OpenAI's API takes where nothing is said.
_DEFAULT_MAX_TOKENS: Final = 16
_MAX_TOKEN_ID: Final = 2**31 - 1


class CompletionFields:
    """The body of a request under certain limits."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._fields: Fields = {
            **common_fields(limits),
            "prompt": self._prompts,
            "max_tokens": integer(0, limits.max_tokens),
            "logprobs": integer(0, MAX_TOP_LOGPROBS),
            "echo": boolean,
            "best_of": unsupported(1),
            "suffix": unsupported(""),
        }

    def job(self, body: dict[str, Any]) -> Job:
        """Raises ApiError naming the field that is wrong."""
        found = check(body, self._fields)
        if "prompt" not in found:
            raise wrong("prompt", "this field is needed", "missing_required_parameter")
        max_tokens = found.get("max_tokens", _DEFAULT_MAX_TOKENS)
        max_tokens = min(max_tokens, self._limits.max_tokens)
        echo = found.get("echo", False)
        if max_tokens == 0 and not echo:
            raise wrong("max_tokens", "0 is accepted with echo: true only")
        prompts = found["prompt"]
        num_logprobs = found.get("logprobs")
        # A prompt of ids is echoed from its scores: they have the bytes of its tokens.
        scores_prompt = echo and (
            num_logprobs is not None or max_tokens == 0 or not isinstance(prompts[0], str)
        )
        options = options_of(
            found,
            max_tokens,
            0 if scores_prompt and num_logprobs is None else num_logprobs,
            scores_prompt=scores_prompt,
        )
        return job_of(found, prompts, options, echo=echo)

    def shape(self, body: dict[str, Any], job: Job) -> CompletionShape:
        return CompletionShape(
            job.include_usage,
            has_logprobs=body.get("logprobs") is not None,
            tells_tokens=job.tells_tokens,
        )

    def _prompts(self, value: Any, path: str) -> tuple[Prompt, ...]:
        """A text, a list of texts, a list of token ids, or a list of those."""
        if isinstance(value, str):
            return (self._text(value, path),)
        if not isinstance(value, list) or not value:
            raise wrong(path, "a text, token ids, or a list of these is accepted", "invalid_type")
        if type(value[0]) is int:
            return (self._token_ids(value, path),)
        if len(value) > self._limits.max_prompts:
            raise wrong(path, f"{self._limits.max_prompts} prompts at most are accepted")
        kind = self._text if isinstance(value[0], str) else self._token_ids
        return tuple(kind(entry, f"{path}[{index}]") for index, entry in enumerate(value))

    def _text(self, value: Any, path: str) -> str:
        text: str = string(self._limits.max_prompt_chars, 1)(value, path)
        return text

    def _token_ids(self, value: Any, path: str) -> tuple[int, ...]:
        if not isinstance(value, list) or not value:
            raise wrong(path, "a list of token ids is accepted", "invalid_type")
        if len(value) > self._limits.max_prompt_tokens:
            raise wrong(path, f"{self._limits.max_prompt_tokens} tokens at most are accepted")
        for index, token_id in enumerate(value):
            if type(token_id) is not int:
                raise wrong(f"{path}[{index}]", "an integer is accepted", "invalid_type")
            if not 0 <= token_id <= _MAX_TOKEN_ID:
                raise wrong(f"{path}[{index}]", f"0 to {_MAX_TOKEN_ID} is accepted")
        return shared(value)


class CompletionShape:
    def __init__(
        self, include_usage: bool, *, has_logprobs: bool, tells_tokens: bool = False
    ) -> None:
        self._writer = ChunkWriter(_KIND, include_usage=include_usage)
        self._has_logprobs = has_logprobs
        self._tells_tokens = tells_tokens
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def chunks(self, head: Head, delta: Delta, told: Told | None = None) -> bytes:
        logprobs = "null"
        if self._has_logprobs and (delta.tokens or delta.told_tokens):
            of_choice = self._logprobs.setdefault(delta.index, CompletionLogprobs())
            of_choice.skip(delta.told_tokens)
            if delta.tokens:
                logprobs = json.dumps(of_choice.of(delta.tokens))
        if delta.is_empty:
            return b""
        reason = "null" if delta.finish_reason is None else f'"{delta.finish_reason}"'
        event = self._writer.choice(
            head,
            f'{{"index":{delta.index},"text":{json.dumps(delta.text)},'
            f'"logprobs":{logprobs},"finish_reason":{reason}}}',
            delta.tokens if self._tells_tokens else (),
        )
        if told is None:
            return event
        ends = delta.finish_reason is not None
        return told.line(delta.index, delta.text, len(delta.tokens), ends=ends) + event

    def usage_chunk(self, head: Head, usage: dict[str, object]) -> bytes:
        return self._writer.usage(head, usage)

    def whole(self, head: Head, choices: Sequence[Whole], usage: dict[str, object]) -> bytes:
        written: list[dict[str, Any]] = [
            {
                "index": index,
                "text": "".join(choice.texts),
                "logprobs": CompletionLogprobs().of(choice.tokens) if self._has_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        return whole_body(head, _KIND, written, usage)
