"""Options of a request to a mesh, and their translation to a SubmitRequest."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from airdraft.nodes.engine.rules import NO_RULES, LogitRules
from airdraft.nodes.engine.traits import SamplingDefaults
from airdraft.nodes.messages import DEFAULT_PRIORITY, ChatMessage, NodeFields, SubmitRequest
from airdraft.nodes.messages.fingerprint import is_named

# JSON numbers are exact up to this size in all languages.
SEED_BITS: Final = 53
# Text, token ids, or a conversation for the chat template.
Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What to generate from a prompt. The command line has the same defaults, except for sampling,
    which it takes from the model's file.

    chat: whether a text prompt is one user message for the model's chat template. model: "" for
    any. user: the owner of the request among those of this client. num_logprobs: the number of
    alternatives for each token; None for no log-probabilities. scores_prompt: log-probabilities of
    the prompt as well. timeout_s: for the whole request, waiting included; None for the
    coordinator's limit. model_hash, numerics_class: those that the target must have, in full or
    as in a fingerprint; "" for any. fits: max_tokens is lowered to what a target can hold.
    tools: as in SubmitRequest.
    date: today's date for the model's chat template, as YYYY-MM-DD; "" for this machine's date, in
    UTC.
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


def text_targets(nodes: Iterable[NodeFields], model: str = "") -> list[NodeFields]:
    """The targets whose models generate text and match a name; "" matches any."""
    return [
        node
        for node in nodes
        if node.role == "target" and not node.traits.embeds
        if not model or is_named(model, (node.model, node.model_hash))
    ]


def common_sampling(targets: Iterable[NodeFields]) -> SamplingDefaults:
    """The models' common sampling defaults; if they differ, the general defaults."""
    found = {target.traits.sampling for target in targets}
    return found.pop() if len(found) == 1 else SamplingDefaults()


def _kinds(prompt: Prompt, is_chat: bool) -> tuple[str, tuple[int, ...], tuple[ChatMessage, ...]]:
    """A prompt as (text, token ids, messages), of which two are empty."""
    if isinstance(prompt, str):
        return ("", (), (ChatMessage("user", prompt),)) if is_chat else (prompt, (), ())
    messages = tuple(item for item in prompt if isinstance(item, ChatMessage))
    return "", tuple(item for item in prompt if isinstance(item, int)), messages


# Options that a SubmitRequest has under the same name and with the same meaning.
_SAME = {item.name for item in fields(GenerateOptions)} & {
    item.name for item in fields(SubmitRequest)
} - {"seed", "gamma", "num_logprobs"}


def submit_of(prompt: Prompt, options: GenerateOptions, seed: int) -> SubmitRequest:
    text, token_ids, messages = _kinds(prompt, options.chat)
    return SubmitRequest(
        request_id=0,
        prompt=text,
        prompt_token_ids=token_ids,
        messages=messages,
        seed=seed,
        gamma=-1 if options.gamma is None else options.gamma,
        num_logprobs=-1 if options.num_logprobs is None else options.num_logprobs,
        **{name: getattr(options, name) for name in _SAME},
    )
