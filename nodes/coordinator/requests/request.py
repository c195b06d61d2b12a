"""A client's request, the streams that it becomes, and the phases that both pass through. Pure.

Each phase is a type, and holds what exists in that phase only. `book.py` alone changes phases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.requests.suspects import Suspicion
from airdraft.nodes.messages import PromptLogprobsNotice, PromptScoresNotice, SubmitRequest
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.worker.stream import StreamId, StreamSpec

SCORES_LOST: Final = "scores of the prompt were lost on the way"
# Output tokens that a choice has already; None for a choice that is over.
Committed: TypeAlias = tuple[int, ...] | None
# Model, numerics class and size of a target, and its name if a stream must go to this one.
TargetKind: TypeAlias = tuple[str, ...]
# What orders the streams of an owner: whether the output has not begun, the turn in seconds, the
# stream, and by how many seconds its priority advanced the turn.
Rank: TypeAlias = tuple[bool, float, StreamId, float]


@dataclass(slots=True)
class TenantTurn:
    """When a tenant was last served, and the number of that placement among all.

    It is forgotten with the tenant's last waiting stream.
    """

    served_at: float = -math.inf
    number: int = 0


@dataclass(slots=True, eq=False)
class Owner:
    """One of the owners of a tenant, which take turns among themselves. turn: of the tenant."""

    turn: TenantTurn
    number: int = 0
    num_waiting: int = 0


# -- phases of a request ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoReader:
    """No present target can read its prompt."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Its text waits for its turn at a target. number: of the text. num_asked: how often it was
    sent to a target without an answer."""

    target: TargetRecord
    number: int
    num_asked: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Its text was sent to a target, which has not answered; the fields are those of Queued."""

    target: TargetRecord
    number: int
    num_asked: int


@dataclass(slots=True)
class Serving:
    """Its token ids are known. streams: those of its choices that are not over. next_score: the
    position of the next prompt token whose score must be sent to the client."""

    streams: dict[StreamId, RequestStream]
    num_prompt_tokens: int
    prompt_hash: str
    next_score: int = 1


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing refers to it any more. A stream may be over before its request."""


# -- phases of a stream ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwaitsScores:
    """Another choice scores the prompt first, because scores precede all tokens."""


@dataclass(frozen=True, slots=True)
class AwaitsPlace:
    """It waits for a place. kinds: those of the targets that may serve it. journal: the stream as
    its last target left it; None before the first one."""

    kinds: frozenset[TargetKind]
    rank: Rank
    owner: Owner
    journal: Stream | None


@dataclass(slots=True)
class Placed:
    """It is on a target. is_new: no token of it has come from there. opened_at: when it came."""

    target: TargetRecord
    opened_at: float
    is_new: bool = True


RequestPhase: TypeAlias = NoReader | Queued | Asked | Serving | Over
StreamPhase: TypeAlias = AwaitsScores | AwaitsPlace | Placed | Over

# From which phase to which; None is before the first one. docs/design/requests.md says when.
TRANSITIONS: Final[dict[type | None, tuple[type, ...]]] = {
    None: (NoReader, Queued, Serving, Over, AwaitsScores, AwaitsPlace),
    NoReader: (Queued, Serving, Over),
    Queued: (Queued, Asked, NoReader, Serving, Over),
    Asked: (Queued, NoReader, Serving, Over),
    Serving: (Over,),
    AwaitsScores: (AwaitsPlace, Over),
    AwaitsPlace: (Placed, Over),
    Placed: (Placed, AwaitsPlace, Over),
    Over: (),
}


def check_transition(
    before: RequestPhase | StreamPhase | None, after: RequestPhase | StreamPhase
) -> None:
    """Raise AssertionError if a phase cannot follow another one; None is before the first."""
    allowed = TRANSITIONS[None if before is None else type(before)]
    assert type(after) in allowed, f"{before} cannot become {after}"


@dataclass(slots=True, eq=False)
class RequestStream:
    """One of a request's choices.

    num_tokens: output tokens, including those that another coordinator sent. draft_bytes,
    target_bytes: of messages about it, with its share of those about several streams.
    """

    request: Request = field(repr=False)
    spec: StreamSpec
    num_tokens: int = 0
    draft_bytes: int = 0
    target_bytes: int = 0
    suspicion: Suspicion | None = None
    phase: StreamPhase | None = None

    @property
    def stream_id(self) -> StreamId:
        return self.spec.stream_id

    @property
    def target(self) -> TargetRecord | None:
        return self.phase.target if isinstance(self.phase, Placed) else None

    @property
    def target_name(self) -> str:
        """The name of its target; "" if it has none."""
        return self.phase.target.name if isinstance(self.phase, Placed) else ""

    @property
    def is_accused(self) -> bool:
        """Whether a target was lost while it worked on the first token of this stream."""
        return self.suspicion is not None and bool(self.suspicion.accused_by)


@dataclass(slots=True, eq=False)
class Request:
    """A client's request.

    role: the role its client joined in. owner: requests of one owner share saved prefixes on
    targets. tenant: requests of different tenants take turns.
    """

    client: bytes
    submit: SubmitRequest
    seed: int
    phase: RequestPhase | None = None
    role: str = "client"
    owner: str = ""
    tenant: str = ""
    # The numerics class in the StartedNotice; None before that was sent.
    announced_class: str | None = None
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
    # Identifies it when it is submitted again; the suspicion with which its choices begin.
    digest: bytes = b""
    suspicion: Suspicion | None = None
    # The prompt's token ids, and the client's tokens of each choice, until they become streams.
    prompt: tuple[int, ...] = ()
    committed: tuple[Committed, ...] = ()
    limit_s: float = math.inf
    ends_at: float = math.inf
    # Characters and token ids that it is charged for; Quota sets it.
    num_held: int = 0

    @property
    def request_id(self) -> int:
        return self.submit.request_id

    @property
    def streams(self) -> dict[StreamId, RequestStream]:
        """Its streams; none before its token ids are known."""
        return self.phase.streams if isinstance(self.phase, Serving) else {}

    @property
    def has_started(self) -> bool:
        return self.announced_class is not None

    @property
    def is_over(self) -> bool:
        return isinstance(self.phase, Over)

    @property
    def is_resumed(self) -> bool:
        """Whether it began with another coordinator."""
        return bool(self.submit.resume_from)

    @property
    def spent_suspicion(self) -> Suspicion | None:
        """The suspicion because of which one of its choices is tried nowhere, if there is one."""
        found = (s.suspicion for s in self.streams.values() if s.suspicion is not None)
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
    def num_to_wait(self) -> int:
        """The streams that it counts as before it has any; one that is only read counts as one."""
        return 1 if self.submit.wants else self.submit.num_choices

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
        phase = self.phase
        if not isinstance(phase, Serving) or not self.submit.scores_prompt:
            return False
        return phase.next_score < phase.num_prompt_tokens

    def scored(self, notice: PromptScoresNotice) -> PromptLogprobsNotice | None:
        """Returns the new scores of the prompt; a target that reads it again repeats old ones.

        Raises ValueError for a gap, which can never be filled.
        """
        phase = self.phase
        assert isinstance(phase, Serving)
        position, num_known = phase.next_score, phase.next_score - notice.position
        if num_known < 0:
            raise ValueError(SCORES_LOST)
        scores = notice.scores[num_known : phase.num_prompt_tokens - notice.position]
        phase.next_score += len(scores)
        return PromptLogprobsNotice(self.request_id, position, scores) if scores else None

    def unbind(self) -> None:
        """After a target was lost, allow another class if the request has no output yet."""
        streams = self.streams.values()
        is_whole = len(streams) == self.submit.num_choices
        has_scores = isinstance(self.phase, Serving) and self.phase.next_score > 1
        has_begun = has_scores or any(stream.target or stream.num_tokens for stream in streams)
        if is_whole and not has_begun and not self.is_pinned:
            self.numerics_class = ""
            # A request announced as inexact may become exact.
            self.is_exact = self.is_exact or None
