"""Fields that all APIs share, and their translation to options of a request to the mesh."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field

from airdraft.nodes.client.generation import SEED_BITS, GenerateOptions, Prompt
from airdraft.nodes.engine.rules import MAX_BIASES, MAX_GRAMMAR_CHARS, Grammar, LogitBias
from airdraft.nodes.engine.rules import LogitRules as Rules
from airdraft.nodes.engine.traits import SAMPLING_NAMES, SamplingDefaults
from airdraft.nodes.gateway.bodies import Body, Hint, Object, Text, TextOr, compact, refusal, wrong
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.tools import Tools
from airdraft.nodes.messages import DEFAULT_PRIORITY, MAX_PRIORITY, MAX_STOPS
from airdraft.nodes.messages.fingerprint import parts_of

# The sampler is greedy at exactly 0 only; a temperature below this is taken as 0.
_LEAST_TEMPERATURE: Final = 1e-6
# Keeps only the likeliest token.
_LEAST_TOP_P: Final = 1e-9
_ANY_OBJECT: Final = {"type": "object"}

_MOST_STOP_CHARS: Final = 256
_Stop = Annotated[Text, Field(min_length=1, max_length=_MOST_STOP_CHARS)]
_Stops = Annotated[list[_Stop], Field(max_length=MAX_STOPS, fail_fast=True)]


def _checked(stop: str | list[str]) -> str | list[str]:
    if isinstance(stop, str) and not 1 <= len(stop) <= _MOST_STOP_CHARS:
        raise refusal(f"1 to {_MOST_STOP_CHARS} characters are accepted")
    return stop


@dataclass(frozen=True, slots=True)
class Job:
    """A checked body.

    prompts: each becomes a request to the mesh. sampling: the sampling options that the body gives;
    `options` has all of them once the model is known. tells_tokens: events give the origin of each
    token. has_logprobs: the answer has log-probabilities. ignored: fields without effect. tools:
    functions that the answer may call. thinks: whether thinking is switched on or off; None leaves
    it to the model. tool_style, thinking: how the model writes calls, and how it thinks before it
    answers; "" until they are known. has_format: an answer without calls follows a
    JSON schema. echoed: fields of the body that the answer repeats. model_hashes: of the models for
    which the request was read; no other may answer. None allows any.
    """

    prompts: tuple[Prompt, ...]
    options: GenerateOptions
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    tells_tokens: bool = False
    has_logprobs: bool = False
    ignored: tuple[Hint, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    tools: Tools | None = None
    thinks: bool | None = None
    tool_style: str = ""
    thinking: str = ""
    has_format: bool = False
    echoed: Mapping[str, Any] = field(default_factory=dict)
    model_hashes: frozenset[str] | None = None

    def with_options(self, **changes: Any) -> Self:
        return replace(self, options=replace(self.options, **changes))


def _bias(found: dict[str, float]) -> dict[str, float]:
    if not all(name.isascii() and name.isdigit() and len(name) <= 9 for name in found):
        raise refusal("the name of each entry must be a token id")
    return found


def _fingerprint(text: str) -> str:
    try:
        parts_of(text)
    except ValueError as error:
        raise refusal(str(error)) from None
    return text


class Sampling(Body):
    """Fields of all APIs about model and sampling, extensions of OpenAI's API included."""

    # What other servers (llama.cpp's, vLLM's) take besides, and what asks for another form of text.
    # Clients often send their other kinds of sampling unasked, so these are ignored with a Warning.
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "json_schema": ({},),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
        "chat_template": (),
        "continue_final_message": (False,),
        "add_generation_prompt": (True,),
    }

    model: Annotated[Text, Field(max_length=256)] | None = None
    stream: bool | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MAX_BIASES),
            AfterValidator(_bias),
        ]
        | None
    ) = None
    grammar: Annotated[Text, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Field(ge=1, le=MAX_PRIORITY)] | None = None
    user: Annotated[Text, Field(max_length=200)] | None = None
    system_fingerprint: (
        Annotated[Text, Field(max_length=520), AfterValidator(_fingerprint)] | None
    ) = None


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    name: Annotated[Text, Field(max_length=64)] | None = None
    description: Annotated[Text, Field(max_length=4096)] | None = None
    schema_: Object = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Object | None = Field(default=None, alias="schema")


class Extensions(Body):
    tokens: bool | None = None


class OpenAiBody(Sampling):
    """Fields that completions and chats share."""

    hints: ClassVar = frozenset({"metadata", "store", "service_tier"})

    n: Annotated[int, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[TextOr[_Stops], AfterValidator(_checked)] | None = None
    response_format: ResponseFormat | None = None
    airdraft: Extensions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def tells_tokens(self) -> bool:
        return self.airdraft is not None and bool(self.airdraft.tokens)


def _schema_of(wanted: ResponseFormat) -> dict[str, Any] | None:
    """Returns the schema of the answer; None if it may be any text. Raises ApiError."""
    if (wanted.json_schema is not None) != (wanted.type == "json_schema"):
        raise wrong(
            "response_format.json_schema", "this is needed with type json_schema, and only then"
        )
    if wanted.schema_ is not None and wanted.type != "json_object":
        raise wrong("response_format.schema", "this goes with type json_object only")
    if wanted.json_schema is not None:
        return wanted.json_schema.schema_
    if wanted.type == "json_object":
        return _ANY_OBJECT if wanted.schema_ is None else wanted.schema_
    return None


def _rules_of(body: OpenAiBody) -> Rules:
    grammar = Grammar()
    if body.grammar is not None:
        grammar = Grammar("gbnf", body.grammar)
    wanted = body.response_format
    if wanted is not None and (schema := _schema_of(wanted)) is not None:
        if grammar.kind:
            raise wrong("grammar", "give either grammar or response_format")
        text = compact(schema)
        if len(text) > MAX_GRAMMAR_CHARS:
            inside = ".json_schema" if wanted.json_schema is not None else ""
            raise wrong(
                f"response_format{inside}.schema",
                f"at most {MAX_GRAMMAR_CHARS} characters are accepted",
            )
        grammar = Grammar("json_schema", text)
    biases = {int(name): bias for name, bias in (body.logit_bias or {}).items()}
    return Rules(
        tuple(LogitBias(token_id, biases[token_id]) for token_id in sorted(biases)),
        body.presence_penalty or 0.0,
        body.frequency_penalty or 0.0,
        grammar,
    )


def job_of(
    body: OpenAiBody,
    limits: GatewayLimits,
    prompts: tuple[Prompt, ...],
    options: Mapping[str, Any],
    **changes: Any,
) -> Job:
    """Make the job of a body, without sampling, which with_sampling() adds. Draws a seed if needed.

    options, changes: options of the request and fields of the job that only one API has.
    """
    num_choices, streams = body.n or 1, bool(body.stream)
    if num_choices > limits.max_choices:
        raise wrong("n", f"at most {limits.max_choices} are accepted")
    if len(prompts) * num_choices > limits.max_choices_of_body:
        most = limits.max_choices_of_body
        raise wrong("n", f"at most {most} choices of all prompts together are accepted")
    for name, is_given in (
        ("stream_options", body.stream_options is not None),
        ("airdraft.tokens", body.tells_tokens),
    ):
        if is_given and not streams:
            raise wrong(name, "this needs stream: true")
    asked = body.system_fingerprint
    model_hash, numerics_class = ("", "") if asked is None else parts_of(asked)
    made = GenerateOptions(
        # The seed is drawn here, so that all prompts of one body have the same.
        seed=secrets.randbits(SEED_BITS) if body.seed is None else body.seed,
        priority=DEFAULT_PRIORITY if body.priority is None else body.priority,
        num_choices=num_choices,
        stops=body.stops,
        ignore_eog=bool(body.ignore_eos),
        chat=False,
        model=body.model or "",
        user=body.user or "",
        rules=_rules_of(body),
        model_hash=model_hash,
        numerics_class=numerics_class,
        **options,
    )
    if body.tells_tokens and made.num_logprobs is None:
        # The texts of single tokens arrive only with their scores.
        made = replace(made, num_logprobs=0)
    return Job(
        prompts=prompts,
        options=made,
        stream=streams,
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        tells_tokens=body.tells_tokens,
        sampling={
            name: value for name in SAMPLING_NAMES if (value := getattr(body, name)) is not None
        },
        **changes,
    )


def with_sampling(
    options: GenerateOptions, given: Mapping[str, float], usual: SamplingDefaults
) -> GenerateOptions:
    """Add the sampling options: those that were given, else the defaults in `usual`."""
    known = {name: given.get(name, getattr(usual, name)) for name in SAMPLING_NAMES}
    if known["temperature"] < _LEAST_TEMPERATURE:
        known["temperature"] = 0.0
    known["top_p"] = max(known["top_p"], _LEAST_TOP_P)
    return replace(options, **known)
