"""What both APIs let a request ask for, as options of a request to the mesh."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from nodes.engine.rules import MAX_BIASES, MAX_GRAMMAR_CHARS, NO_RULES, Grammar, LogitBias
from nodes.engine.rules import LogitRules as Rules
from nodes.fingerprint import parts_of
from nodes.gateway.config import GatewayLimits
from nodes.gateway.idempotency import SEED_BITS
from nodes.gateway.schema import (
    Fields,
    Hint,
    boolean,
    compact,
    hint,
    integer,
    json_object,
    number,
    obj,
    one_of,
    sequence,
    string,
    wrong,
)
from nodes.gateway.tools import Tools
from nodes.generation import GenerateOptions, Prompt
from nodes.messages import DEFAULT_PRIORITY, MAX_PRIORITY, MAX_STOPS

_MAX_STOP_CHARS: Final = 256
# What the sampler takes for greedy is 0 only; smaller temperatures than this mean it.
_LEAST_TEMPERATURE: Final = 1e-6
# Keeps the likeliest token and no other.
_LEAST_TOP_P: Final = 1e-9
_MAX_FINGERPRINT_CHARS: Final = 520
_ANY_OBJECT: Final = '{"type":"object"}'


@dataclass(frozen=True, slots=True)
class Job:
    """A body that has been checked. prompts: each of them is a request to the mesh. tells_tokens:
    events say what made each token. ignored: fields that mean nothing here.
    tools: what the answer may call; tool_style: how its model writes calls, once that is known.
    """

    prompts: tuple[Prompt, ...]
    options: GenerateOptions
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    user: str = ""
    tells_tokens: bool = False
    ignored: tuple[Hint, ...] = ()
    tools: Tools | None = None
    tool_style: str = ""


def _stop(value: Any, path: str) -> tuple[str, ...]:
    text = string(_MAX_STOP_CHARS, 1)
    if isinstance(value, list):
        stops: tuple[str, ...] = sequence(text, MAX_STOPS)(value, path)
        return stops
    return (text(value, path),)


def _logit_bias(value: Any, path: str) -> tuple[LogitBias, ...]:
    if not isinstance(value, dict):
        raise wrong(path, "an object of token ids and numbers is accepted", "invalid_type")
    if len(value) > MAX_BIASES:
        raise wrong(path, f"{MAX_BIASES} entries at most are accepted")
    bias = number(-100, 100)
    found: dict[int, float] = {}
    for name, item in value.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 9):
            raise wrong(path, "the name of each entry is a token id")
        found[int(name)] = bias(item, f"{path}.{name}")
    return tuple(LogitBias(token_id, found[token_id]) for token_id in sorted(found))


def _schema_text(value: Any, path: str) -> str:
    text = compact(json_object(value, path))
    if len(text) > MAX_GRAMMAR_CHARS:
        raise wrong(path, f"{MAX_GRAMMAR_CHARS} characters at most are accepted")
    return text


_FORMAT: Final = obj(
    {
        "type": one_of("text", "json_object", "json_schema"),
        "json_schema": obj(
            {
                "name": string(64),
                "description": string(4096),
                "schema": _schema_text,
                "strict": boolean,
            },
            required=("schema",),
        ),
    },
    required=("type",),
)


def _fingerprint(value: Any, path: str) -> tuple[str, str]:
    text = string(_MAX_FINGERPRINT_CHARS)(value, path)
    try:
        return parts_of(text)
    except ValueError as error:
        raise wrong(path, str(error)) from None


def common_fields(limits: GatewayLimits) -> Fields:
    return {
        "model": string(256),
        "stream": boolean,
        "stream_options": obj({"include_usage": boolean, "include_obfuscation": boolean}),
        "n": integer(1, limits.max_choices),
        "seed": integer(0, 2**63 - 1),
        "stop": _stop,
        "temperature": number(0, 2),
        "top_p": number(0, 1),
        "top_k": integer(0, 2**31 - 1),
        "min_p": number(0, 1),
        "presence_penalty": number(-2, 2),
        "frequency_penalty": number(-2, 2),
        "logit_bias": _logit_bias,
        "response_format": _FORMAT,
        "grammar": string(MAX_GRAMMAR_CHARS, 1),
        "ignore_eos": boolean,
        "priority": integer(1, MAX_PRIORITY),
        "user": string(200),
        "system_fingerprint": _fingerprint,
        "airdraft": obj({"tokens": boolean}),
        "metadata": hint,
        "store": hint,
        "service_tier": hint,
    }


def rules_of(found: dict[str, Any]) -> Rules:
    grammar = Grammar()
    if "grammar" in found:
        grammar = Grammar("gbnf", found["grammar"])
    wanted = found.get("response_format", {})
    kind = wanted.get("type", "text")
    if ("json_schema" in wanted) != (kind == "json_schema"):
        raise wrong("response_format.json_schema", "this goes with type json_schema, and only so")
    if kind != "text":
        if grammar.kind:
            raise wrong("grammar", "give either grammar or response_format")
        text = wanted["json_schema"]["schema"] if kind == "json_schema" else _ANY_OBJECT
        grammar = Grammar("json_schema", text)
    rules = Rules(
        found.get("logit_bias", ()),
        found.get("presence_penalty", 0.0),
        found.get("frequency_penalty", 0.0),
        grammar,
    )
    return NO_RULES if rules == NO_RULES else rules


def tells_tokens(found: dict[str, Any]) -> bool:
    told: bool = found.get("airdraft", {}).get("tokens", False)
    return told


def options_of(
    found: dict[str, Any],
    max_tokens: int,
    num_logprobs: int | None,
    *,
    scores_prompt: bool = False,
) -> GenerateOptions:
    """Options with OpenAI's defaults; a seed is drawn where none was given."""
    temperature = found.get("temperature", 1.0)
    seed = found.get("seed")
    model_hash, numerics_class = found.get("system_fingerprint", ("", ""))
    return GenerateOptions(
        max_tokens=max_tokens,
        temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
        top_k=found.get("top_k", 0),
        top_p=max(found.get("top_p", 1.0), _LEAST_TOP_P),
        min_p=found.get("min_p", 0.0),
        # Drawn here, so that all prompts of one body have the same.
        seed=secrets.randbits(SEED_BITS) if seed is None else seed,
        priority=found.get("priority", DEFAULT_PRIORITY),
        num_choices=found.get("n", 1),
        stops=found.get("stop", ()),
        ignore_eog=found.get("ignore_eos", False),
        chat=False,
        model=found.get("model", ""),
        rules=rules_of(found),
        # Pieces of tokens come with their scores.
        num_logprobs=0 if num_logprobs is None and tells_tokens(found) else num_logprobs,
        scores_prompt=scores_prompt,
        model_hash=model_hash,
        numerics_class=numerics_class,
    )


def job_of(
    found: dict[str, Any],
    prompts: tuple[Prompt, ...],
    options: GenerateOptions,
    *,
    echo: bool = False,
    tools: Tools | None = None,
) -> Job:
    streams = found.get("stream", False)
    if "stream_options" in found and not streams:
        raise wrong("stream_options", "this goes with stream: true only")
    if tells_tokens(found) and not streams:
        raise wrong("airdraft.tokens", "this goes with stream: true only")
    return Job(
        prompts=prompts,
        options=options,
        model=found.get("model", ""),
        stream=streams,
        include_usage=found.get("stream_options", {}).get("include_usage", False),
        echo=echo,
        user=found.get("user", ""),
        tells_tokens=tells_tokens(found),
        tools=tools,
    )
