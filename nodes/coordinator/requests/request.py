"""Requests of clients: validation, the streams they become, and what their clients are told."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nodes.coordinator.placing.remembered import digest_of
from nodes.coordinator.placing.suspects import Suspicion
from nodes.coordinator.requests.conversation import conversation_of
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
from nodes.scheduler.instructions import Emit
from nodes.scheduler.stream import Figures, Stream
from nodes.worker.cells import cells_needed
from nodes.worker.stream import StreamId, StreamSpec

# Output tokens of a choice; None of one that is over.
Committed = tuple[int, ...] | None


class BadRequestError(Exception):
    """The request can never be served as it is; the text is one line for its sender."""


@dataclass(slots=True)
class Wire:
    """Bytes of messages about one stream, its share of those about several."""

    draft_bytes: int = 0
    target_bytes: int = 0

    def add(self, num_bytes: int, *, to_draft: bool) -> None:
        if to_draft:
            self.draft_bytes += num_bytes
        else:
            self.target_bytes += num_bytes


@dataclass(slots=True)
class Choice:
    """One of a request's n choices: a stream on some target.

    journal: the stream itself, while it waits for another target. num_tokens: of output, those
    that its client had from another coordinator included.
    """

    spec: StreamSpec
    target: str = ""
    num_tokens: int = 0
    journal: Stream | None = None
    wire: Wire = field(default_factory=Wire)
    # Whether there has been no token of it where it is, and since when.
    is_new: bool = True
    opened_at: float = 0.0
    suspicion: Suspicion | None = None

    @property
    def is_confined(self) -> bool:
        """Whether it may be tried only where it may have ended a target."""
        return self.suspicion is not None and bool(self.suspicion.new_on)

    def has_come(self, num_tokens: int) -> bool:
        """So many tokens of it came from where it is: whether that takes a suspicion from it."""
        if not num_tokens:
            return False
        was_suspect = self.suspicion is not None
        self.is_new, self.suspicion = False, None
        return was_suspect


@dataclass(slots=True)
class Request:
    """owner: whose other requests may share what a target has computed for this one.

    role: what its client joined as. tenant: with whose other requests it takes turns.
    """

    client: bytes
    submit: SubmitRequest
    seed: int
    choices: dict[StreamId, Choice] = field(default_factory=dict)
    role: str = "client"
    owner: str = ""
    tenant: str = ""
    # The numerics class that its StartedNotice told.
    told_class: str | None = None
    arrived_at: float = 0.0
    # What its targets must have, perhaps shortened as in fingerprints; "" for any, as yet.
    # All choices stay with engines of one class, which compute equal bits (law 1).
    model_hash: str = ""
    numerics_class: str = ""
    # What is the same in all turns of a conversation: a class is drawn by it.
    conversation: bytes = b""
    # What the client was told.
    is_exact: bool | None = None
    moved_at: float = -math.inf
    # When it was last asked whether it is better off elsewhere.
    looked_at: float = -math.inf
    # Targets that left while it was theirs.
    num_losses: int = 0
    last_loss: str = "all targets that could serve it left"
    # Since when there is no target that could serve it; stranded.py keeps it.
    stranded_at: float | None = None
    # Position of the next token of the prompt of which the client is to be told the score.
    next_score: int = 1
    num_prompt_tokens: int = 0
    prompt_hash: str = ""
    # What it is known by when it is asked again, and with what its choices begin.
    digest: bytes = b""
    suspicion: Suspicion | None = None
    # What a prompt of token ids is, and what its client has of each choice, until they are streams.
    prompt: tuple[int, ...] = ()
    committed: tuple[Committed, ...] = ()
    limit_s: float = math.inf
    ends_at: float = math.inf

    @property
    def request_id(self) -> int:
        return self.submit.request_id

    @property
    def fixed_gamma(self) -> int | None:
        return None if self.submit.gamma < 0 else self.submit.gamma

    @property
    def has_started(self) -> bool:
        return self.told_class is not None

    @property
    def is_resumed(self) -> bool:
        """Whether it began with another coordinator."""
        return bool(self.submit.resume_from)

    @property
    def is_confined(self) -> bool:
        """Whether this is so of some choice of it."""
        return any(choice.is_confined for choice in self.choices.values())

    @property
    def is_pinned(self) -> bool:
        """Whether it asks for one numerics class, or went on with what it had when it began
        elsewhere."""
        return bool(self.submit.numerics_class)

    @property
    def weight(self) -> float:
        return self.submit.priority / DEFAULT_PRIORITY

    def forget_text(self) -> None:
        """It has become streams."""
        self.submit = replace(self.submit, prompt="", messages=(), prompt_token_ids=())
        self.prompt, self.committed = (), ()

    @property
    def awaits_scores(self) -> bool:
        """Whether there are scores of the prompt that the client is still to be told."""
        return self.submit.scores_prompt and self.next_score < self.num_prompt_tokens

    def scored(self, notice: PromptScoresNotice) -> PromptLogprobsNotice | None:
        """What is new in scores of the prompt; a target that reads it anew tells all again.

        Raises ValueError for a gap, which can never be filled.
        """
        position, num_known = self.next_score, self.next_score - notice.position
        if num_known < 0:
            raise ValueError("scores of the prompt were lost on the way")
        scores = notice.scores[num_known : self.num_prompt_tokens - notice.position]
        self.next_score += len(scores)
        return PromptLogprobsNotice(self.request_id, position, scores) if scores else None

    def unbind(self) -> None:
        """A target is gone: without any token from its kind, another kind will do as well."""
        is_whole = len(self.choices) == self.submit.num_choices
        has_begun = self.next_score > 1 or any(
            choice.target or choice.num_tokens for choice in self.choices.values()
        )
        if is_whole and not has_begun and not self.is_pinned:
            self.numerics_class = ""
            # What was not said to be exact may come out better.
            self.is_exact = self.is_exact or None


def new_request(client: bytes, submit: SubmitRequest) -> Request:
    """Take a request in; a seed of -1 becomes a random one, which the client is told.

    Raises BadRequestError.
    """
    seed = submit.seed if submit.seed >= 0 else secrets.randbits(53)
    prompt, committed = _split(submit)
    if any(committed):
        # Of the prompt all was told before the first token.
        submit = replace(submit, scores_prompt=False)
    request = Request(client, submit, seed, prompt=prompt, committed=committed)
    request.digest = digest_of(submit)
    request.model_hash, request.numerics_class = submit.model_hash, submit.numerics_class
    request.conversation = conversation_of(submit, prompt)
    if request.is_resumed:
        # What was told as exact stays so; what was not may come out better.
        request.is_exact = True if submit.is_exact else None
    sampling_of(request, 0)
    if not (submit.prompt or prompt or submit.messages):
        raise BadRequestError("the prompt is empty: give some text or token ids")
    if submit.wants:
        if submit.wants not in WANTS:
            raise BadRequestError(f"wants: one of {', '.join(WANTS)} is accepted")
        if (submit.wants == TEXT) != bool(prompt) and submit.wants != EMBEDDING:
            raise BadRequestError(
                "wants: `text` needs token ids as the prompt, `tokens` a text or a conversation"
            )
    elif submit.max_tokens == 0 and not submit.scores_prompt:
        raise BadRequestError("max_tokens is 0: at least 1, unless the prompt is scored")
    return request


def _split(submit: SubmitRequest) -> tuple[tuple[int, ...], tuple[Committed, ...]]:
    """The ids of the prompt, if it has some, and what its client has of each choice."""
    ids, counts = submit.prompt_token_ids, submit.resume_from
    if not counts:
        return ids, ((),) * submit.num_choices
    if len(counts) != submit.num_choices or max(counts) < 0:
        raise BadRequestError("resume_from: a number for each choice, of which one is not over")
    if max(counts) >= max(1, submit.max_tokens):
        raise BadRequestError("resume_from: a choice has all its tokens already")
    begin = len(ids) - sum(max(0, count) for count in counts)
    if begin < 0:
        raise BadRequestError("resume_from: there are fewer token ids than it says")
    prompt, committed = ids[:begin], list[Committed]()
    for count in counts:
        committed.append(None if count < 0 else ids[begin : begin + count])
        begin += max(0, count)
    return prompt, tuple(committed)


def sampling_of(request: Request, choice: int) -> Sampling:
    """Raises BadRequestError naming the parameter that is out of range."""
    submit = request.submit
    try:
        return Sampling(
            temperature=submit.temperature,
            top_k=submit.top_k,
            top_p=submit.top_p,
            min_p=submit.min_p,
            seed=request.seed,
            choice=choice,
            rules=submit.rules,
        )
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def specs_of(
    request: Request, owner: str, first_id: int, prompt: tuple[int, ...], target: EngineProfile
) -> list[StreamSpec]:
    """The streams of a request on a target. Raises BadRequestError if they can never fit."""
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
            owner=owner,
            sampling=sampling_of(request, index),
            max_tokens=max_tokens,
            stops=submit.stops,
            ignore_eog=submit.ignore_eog,
            num_prompt_tokens=len(prompt),
            token_ids=prompt + ids,
            num_logprobs=submit.num_logprobs,
            # It is the prompt of all of them, and read once.
            scores_prompt=submit.scores_prompt and number == 0,
            num_leased=1,
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
        # Wherever it goes on, one message has all of it.
        raise BadRequestError(
            f"{wanted} exceed the {MAX_PROMPT_TOKENS} tokens of a message: "
            f"shorten the prompt or lower --max-tokens"
        )
    # One that began elsewhere fitted there: a target with as many cells may still come.
    if not request.is_resumed and cells_needed(specs[0]) > target.num_cells:
        raise BadRequestError(
            f"{wanted} + {MAX_GAMMA} guesses exceed the {target.num_cells} cells of "
            f"{target.model}: shorten the prompt, lower --max-tokens or raise --cells"
        )
    return specs


def started_notice(
    request: Request,
    choice: Choice,
    target: EngineProfile,
    drafts: Sequence[EngineProfile],
    now: float,
) -> StartedNotice:
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


def tokens_notice(request: Request, choice: Choice, emit: Emit) -> TokensNotice:
    return TokensNotice(
        request_id=request.request_id,
        choice=choice.spec.sampling.choice,
        position=emit.position,
        text=emit.text,
        token_ids=emit.token_ids,
        num_draft_tokens=emit.num_draft_tokens,
        num_accepted_tokens=emit.num_accepted_tokens,
        scores=emit.scores,
        is_last=emit.is_last,
    )


def finished_notice(
    request: Request, choice: Choice, reason: str, figures: Figures, plain_reason: str
) -> FinishedNotice:
    wire = StreamFigures(
        num_rounds=figures.num_rounds,
        num_plain_steps=figures.num_plain_steps,
        num_draft_tokens=figures.num_draft_tokens,
        num_accepted_tokens=figures.num_accepted_tokens,
        draft_wire_bytes=choice.wire.draft_bytes,
        target_wire_bytes=choice.wire.target_bytes,
        plain_reason=plain_reason[:256],
    )
    return FinishedNotice(
        request.request_id, choice.spec.sampling.choice, choice.num_tokens, reason, wire
    )
