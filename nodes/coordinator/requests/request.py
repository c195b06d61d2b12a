"""Requests of clients: validation, the streams they become, and notices to their clients."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mesh.json_form import copied_from
from nodes.coordinator.placing.remembered import digest_of
from nodes.coordinator.placing.suspects import Suspicion
from nodes.engine.sampling import Sampling
from nodes.messages import (
    DEFAULT_PRIORITY,
    EMBEDDING,
    MAX_DEADLINE_S,
    MAX_GAMMA,
    MAX_PROMPT_TOKENS,
    TEXT,
    WANTS,
    EngineProfile,
    FinishedNotice,
    PromptLogprobsNotice,
    PromptScoresNotice,
    StartedNotice,
    StreamFigures,
    SubmitRequest,
    TokensNotice,
)
from nodes.scheduler.instructions import Emit, Finish
from nodes.scheduler.stream import Stream
from nodes.worker.stream import StreamId, StreamSpec, cells_needed

_MAX_REASON = 1024
SCORES_LOST = "scores of the prompt were lost on the way"
# Output tokens that a choice has already; None for a choice that is over.
Committed = tuple[int, ...] | None


class RefusedRequestError(Exception):
    """A request is refused. The message is one line for its sender; code: as in
    RequestFailedNotice."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason[:_MAX_REASON])
        self.code = code


class BadRequestError(RefusedRequestError):
    """The request can never be served as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__("bad_request", reason)


@dataclass(slots=True, eq=False)
class Choice:
    """One of a request's n choices: a stream on some target.

    journal: the stream itself, while it waits for another target. num_tokens: output tokens,
    including those that another coordinator sent. draft_bytes, target_bytes: of messages about it,
    with its share of those about several streams.
    """

    request: Request = field(repr=False)
    spec: StreamSpec
    target: str = ""
    num_tokens: int = 0
    journal: Stream | None = None
    draft_bytes: int = 0
    target_bytes: int = 0
    # Whether its present target has produced no token of it, and when it was opened there.
    is_new: bool = True
    opened_at: float = 0.0
    suspicion: Suspicion | None = None

    @property
    def is_accused(self) -> bool:
        """Whether a target was lost while it worked on the first token of this stream."""
        return self.suspicion is not None and bool(self.suspicion.accused_by)

    def note_tokens(self, num_tokens: int) -> bool:
        """Note tokens from its present target. Returns whether they cleared a suspicion."""
        if not num_tokens:
            return False
        was_suspect = self.suspicion is not None
        self.is_new, self.suspicion = False, None
        return was_suspect


@dataclass(slots=True, eq=False)
class Request:
    """A client's request with its choices.

    role: the role its client joined in. owner: requests of one owner share saved prefixes on
    targets. tenant: requests of different tenants take turns.
    """

    client: bytes
    submit: SubmitRequest
    seed: int
    choices: dict[StreamId, Choice] = field(default_factory=dict)
    role: str = "client"
    owner: str = ""
    tenant: str = ""
    # The numerics class in the StartedNotice; None before that was sent.
    told_class: str | None = None
    arrived_at: float = 0.0
    # The model and class its targets must have, perhaps shortened as in fingerprints; "" for any.
    # All choices stay with engines of one class, which compute equal bits (law 1).
    model_hash: str = ""
    numerics_class: str = ""
    # Whether its targets must be exact, as the client was notified; None for either.
    is_exact: bool | None = None
    # Targets that left while they served it.
    num_losses: int = 0
    last_loss: str = "all targets that could serve this request left"
    # Position of the next prompt token whose score must be sent to the client.
    next_score: int = 1
    num_prompt_tokens: int = 0
    prompt_hash: str = ""
    # Identifies it when it is submitted again; the suspicion with which its choices begin.
    digest: bytes = b""
    suspicion: Suspicion | None = None
    # The prompt's token ids, and the client's tokens of each choice, until they become streams.
    prompt: tuple[int, ...] = ()
    committed: tuple[Committed, ...] = ()
    limit_s: float = math.inf
    ends_at: float = math.inf
    # Characters and token ids that it is charged for; Holdings sets it.
    num_held: int = 0

    @property
    def request_id(self) -> int:
        return self.submit.request_id

    @property
    def has_started(self) -> bool:
        return self.told_class is not None

    @property
    def has_place(self) -> bool:
        """Whether any of its choices is on a target."""
        return any(choice.target for choice in self.choices.values())

    @property
    def is_resumed(self) -> bool:
        """Whether it began with another coordinator."""
        return bool(self.submit.resume_from)

    @property
    def spent_suspicion(self) -> Suspicion | None:
        """The suspicion because of which one of its choices is tried nowhere, if there is one."""
        found = (c.suspicion for c in self.choices.values() if c.suspicion is not None)
        return next((suspicion for suspicion in found if suspicion.is_spent), None)

    @property
    def is_pinned(self) -> bool:
        """Whether it names one numerics class, or was resumed with the class it began with."""
        return bool(self.submit.numerics_class)

    @property
    def needs_reading(self) -> bool:
        """Whether a target must tokenize its prompt, or read it in another way, before streams."""
        return not self.prompt or bool(self.submit.wants)

    @property
    def num_submitted(self) -> int:
        """The characters and token ids that are kept as they were submitted."""
        submit, rules = self.submit, self.submit.rules
        num_chars = len(submit.prompt)
        num_chars += sum(len(message.role) + len(message.content) for message in submit.messages)
        num_chars += len(submit.tools) + len(rules.grammar.text)
        return num_chars + len(submit.prompt_token_ids) + len(rules.logit_bias)

    def forget_text(self) -> None:
        """Drop the text after the request has become streams, which need only its rules."""
        self.submit = replace(self.submit, prompt="", messages=(), tools="", prompt_token_ids=())
        self.prompt, self.committed = (), ()

    @property
    def awaits_scores(self) -> bool:
        """Whether scores of the prompt must still be sent to the client."""
        return self.submit.scores_prompt and self.next_score < self.num_prompt_tokens

    def scored(self, notice: PromptScoresNotice) -> PromptLogprobsNotice | None:
        """Return the new scores of the prompt; a target that reads it again repeats old ones.

        Raises ValueError for a gap, which can never be filled.
        """
        position, num_known = self.next_score, self.next_score - notice.position
        if num_known < 0:
            raise ValueError(SCORES_LOST)
        scores = notice.scores[num_known : self.num_prompt_tokens - notice.position]
        self.next_score += len(scores)
        return PromptLogprobsNotice(self.request_id, position, scores) if scores else None

    def unbind(self) -> None:
        """After a target was lost, allow another class if the request has no output yet."""
        is_whole = len(self.choices) == self.submit.num_choices
        has_begun = self.next_score > 1 or any(
            choice.target or choice.num_tokens for choice in self.choices.values()
        )
        if is_whole and not has_begun and not self.is_pinned:
            self.numerics_class = ""
            # A request announced as inexact may become exact.
            self.is_exact = self.is_exact or None


def new_request(client: bytes, submit: SubmitRequest) -> Request:
    """Validate a submitted request. A seed of -1 becomes a random one, sent to the client later.

    Raises BadRequestError.
    """
    seed = submit.seed if submit.seed >= 0 else secrets.randbits(53)
    prompt, committed = _split(submit)
    if any(committed):
        # All prompt scores were sent before the first token.
        submit = replace(submit, scores_prompt=False)
    request = Request(client, submit, seed, prompt=prompt, committed=committed)
    request.digest = digest_of(submit)
    request.model_hash, request.numerics_class = submit.model_hash, submit.numerics_class
    if request.is_resumed:
        # A request announced as exact stays exact; another one may become exact.
        request.is_exact = True if submit.is_exact else None
    sampling_of(request, 0)
    if not (submit.prompt or prompt or submit.messages):
        raise BadRequestError("the prompt is empty: give some text or token ids")
    if submit.wants:
        if submit.wants not in WANTS:
            raise BadRequestError(f"wants: accepted values are {', '.join(WANTS)}")
        if (submit.wants == TEXT) != bool(prompt) and submit.wants != EMBEDDING:
            raise BadRequestError(
                "wants: `text` needs token ids as the prompt, `tokens` a text or a conversation"
            )
    elif submit.max_tokens == 0 and not submit.scores_prompt:
        raise BadRequestError("max_tokens is 0: it must be at least 1 unless the prompt is scored")
    return request


def _split(submit: SubmitRequest) -> tuple[tuple[int, ...], tuple[Committed, ...]]:
    """Return the prompt's token ids, if any, and the tokens that the client has of each choice."""
    ids, counts = submit.prompt_token_ids, submit.resume_from
    if not counts:
        return ids, ((),) * submit.num_choices
    if len(counts) != submit.num_choices or max(counts) < 0:
        raise BadRequestError("resume_from: give one number per choice, at least one not negative")
    if max(counts) >= max(1, submit.max_tokens):
        raise BadRequestError("resume_from: one choice already has max_tokens tokens")
    begin = len(ids) - sum(max(0, count) for count in counts)
    if begin < 0:
        raise BadRequestError("resume_from: its numbers exceed the number of token ids")
    prompt, committed = ids[:begin], list[Committed]()
    for count in counts:
        committed.append(None if count < 0 else ids[begin : begin + count])
        begin += max(0, count)
    return prompt, tuple(committed)


def sampling_of(request: Request, choice: int) -> Sampling:
    """Return a choice's sampling parameters. Raises BadRequestError naming one out of range."""
    try:
        return copied_from(request.submit, Sampling, seed=request.seed, choice=choice)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def specs_of(
    request: Request, first_id: int, prompt: tuple[int, ...], target: EngineProfile
) -> list[StreamSpec]:
    """Return the streams of a request. Raises BadRequestError if the target can never hold them."""
    submit = request.submit
    if not prompt:
        raise BadRequestError("the prompt is empty: give some text or token ids")
    largest = max(max(prompt), *(max(ids or (), default=0) for ids in request.committed))
    if largest >= target.num_vocab:
        raise BadRequestError(f"token id {largest} is outside the vocabulary of {target.model}")
    for entry in submit.rules.logit_bias:
        if entry.token_id >= target.num_vocab:
            raise BadRequestError(
                f"logit_bias: token id {entry.token_id} is outside the vocabulary of {target.model}"
            )
    max_tokens = submit.max_tokens
    if submit.fits:
        room = min(target.context_length, MAX_PROMPT_TOKENS, target.num_cells - MAX_GAMMA)
        # A client that resumes has these tokens already.
        least = 1 + max((len(ids or ()) for ids in request.committed), default=0)
        max_tokens = min(max_tokens, max(room - len(prompt), least))
    left = [(index, ids) for index, ids in enumerate(request.committed) if ids is not None]
    specs = [
        StreamSpec(
            stream_id=StreamId(first_id + number),
            generation=1,
            owner=request.owner,
            sampling=sampling_of(request, index),
            max_tokens=max_tokens,
            stops=submit.stops,
            ignore_eog=submit.ignore_eog,
            num_prompt_tokens=len(prompt),
            token_ids=prompt + ids,
            num_logprobs=submit.num_logprobs,
            # All choices share the prompt, so only the first stream scores it.
            scores_prompt=submit.scores_prompt and number == 0,
            num_leased=1,
            weight=submit.priority / DEFAULT_PRIORITY,
            num_guesses=submit.gamma,
        )
        for number, (index, ids) in enumerate(left)
    ]
    wanted = f"context overflow: {len(prompt)} prompt tokens + {max_tokens} to generate"
    if len(prompt) + max_tokens > target.context_length:
        raise BadRequestError(
            f"{wanted} exceed the {target.context_length} of {target.model}: "
            f"shorten the prompt or lower --max-tokens"
        )
    if len(prompt) + max_tokens > MAX_PROMPT_TOKENS:
        # One message must hold the whole stream when another target continues it.
        raise BadRequestError(
            f"{wanted} exceed the {MAX_PROMPT_TOKENS} tokens of a message: "
            f"shorten the prompt or lower --max-tokens"
        )
    # A resumed request did fit a target: one with as many KV cells may still join.
    if not request.is_resumed and cells_needed(specs[0]) > target.num_cells:
        raise BadRequestError(
            f"{wanted} + {MAX_GAMMA} guesses exceed the {target.num_cells} cells of "
            f"{target.model}: shorten the prompt, lower --max-tokens or raise --cells"
        )
    return specs


def started_notice(
    choice: Choice, target: EngineProfile, drafts: Sequence[EngineProfile], now: float
) -> StartedNotice:
    request = choice.request
    return StartedNotice(
        request_id=request.request_id,
        seed=request.seed,
        num_prompt_tokens=choice.spec.num_prompt_tokens,
        exact=target.exact,
        target=target.model,
        draft=", ".join(draft.model for draft in drafts)[:256],
        emulated=any(profile.emulated for profile in (target, *drafts)),
        numerics_class=target.numerics_class,
        model_hash=target.model_hash,
        prompt_hash=request.prompt_hash,
        limit_s=min(MAX_DEADLINE_S, max(0.0, request.ends_at - now)),
    )


def tokens_notice(choice: Choice, emit: Emit) -> TokensNotice:
    return TokensNotice(
        request_id=choice.request.request_id,
        choice=choice.spec.sampling.choice,
        position=emit.position,
        text=emit.text,
        token_ids=emit.token_ids,
        num_draft_tokens=emit.num_draft_tokens,
        num_accepted_tokens=emit.num_accepted_tokens,
        scores=emit.scores,
        is_last=emit.is_last,
    )


def finished_notice(choice: Choice, finish: Finish) -> FinishedNotice:
    wire = copied_from(
        finish.figures,
        StreamFigures,
        draft_wire_bytes=choice.draft_bytes,
        target_wire_bytes=choice.target_bytes,
        plain_reason=finish.plain_reason[:512],
    )
    number, index = choice.request.request_id, choice.spec.sampling.choice
    return FinishedNotice(number, index, choice.num_tokens, finish.reason, wire)
