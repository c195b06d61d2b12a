"""What may be asked of a mesh, and the request that says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nodes.engine.rules import NO_RULES, LogitRules
from nodes.engine.traits import ModelTraits, SamplingDefaults
from nodes.messages import DEFAULT_PRIORITY, ChatMessage, NodeFields, SubmitRequest
from nodes.messages.fingerprint import is_named

# Text, token ids, or a conversation for the chat template.
Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What to generate from a prompt; defaults are the command line's.

    chat: a prompt that is text is one message of a user, for the model's chat template. model: ""
    for any. user: owner of the request among those of this client. num_logprobs: None for none, or
    how many alternatives to each token. scores_prompt: log-probabilities of the prompt as well.
    timeout_s: for all of it, waiting included; None for the coordinator's limit. model_hash,
    numerics_class: what its target must have, in full or as a fingerprint has them; "" for any.
    fits: max_tokens is lowered to what a target can hold.
    tools: as in SubmitRequest.
    date: what the model's chat template takes for today, as YYYY-MM-DD; "" for the day of this
    machine, in UTC.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    gamma: int | None = None
    priority: int = DEFAULT_PRIORITY
    num_choices: int = 1
    stops: tuple[str, ...] = ()
    ignore_eog: bool = False
    chat: bool = True
    model: str = ""
    user: str = ""
    rules: LogitRules = NO_RULES
    num_logprobs: int | None = None
    scores_prompt: bool = False
    timeout_s: float | None = None
    date: str = ""
    model_hash: str = ""
    numerics_class: str = ""
    tools: str = ""
    fits: bool = False


def traits_of_nodes(nodes: Iterable[NodeFields], model: str = "") -> list[ModelTraits]:
    """Of all models that make text and that a name may mean; "" for any."""
    return [
        node.traits
        for node in nodes
        if node.role == "target" and not node.traits.embeds
        if not model or is_named(model, (node.model, node.model_hash))
    ]


def common_sampling(traits: Iterable[ModelTraits]) -> SamplingDefaults:
    """How models draw tokens where nobody says it: the usual, where they differ."""
    found = {each.sampling for each in traits}
    return found.pop() if len(found) == 1 else SamplingDefaults()


def _kinds(prompt: Prompt, is_chat: bool) -> tuple[str, tuple[int, ...], tuple[ChatMessage, ...]]:
    """A prompt as text, token ids and messages: one of them, the others empty."""
    if isinstance(prompt, str):
        return ("", (), (ChatMessage("user", prompt),)) if is_chat else (prompt, (), ())
    messages = tuple(item for item in prompt if isinstance(item, ChatMessage))
    return "", tuple(item for item in prompt if isinstance(item, int)), messages


def submit_of(prompt: Prompt, options: GenerateOptions, seed: int) -> SubmitRequest:
    text, token_ids, messages = _kinds(prompt, options.chat)
    return SubmitRequest(
        request_id=0,
        prompt=text,
        num_choices=options.num_choices,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        seed=seed,
        max_tokens=options.max_tokens,
        stops=options.stops,
        ignore_eog=options.ignore_eog,
        gamma=-1 if options.gamma is None else options.gamma,
        priority=options.priority,
        prompt_token_ids=token_ids,
        messages=messages,
        model=options.model,
        user=options.user,
        rules=options.rules,
        num_logprobs=-1 if options.num_logprobs is None else options.num_logprobs,
        scores_prompt=options.scores_prompt,
        date=options.date,
        model_hash=options.model_hash,
        numerics_class=options.numerics_class,
        tools=options.tools,
        fits=options.fits,
    )
