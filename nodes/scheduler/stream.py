"""One stream at the coordinator: its journal, where it is, and who follows it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from nodes.messages import CommitEntry
from nodes.scheduler.node_backoff import NodeBackoff
from nodes.worker.stream import StreamSpec
from policies.acceptance import AcceptanceEstimate

# How fast the averages of tokens and of seconds a pass follow: some 20 passes.
_RATE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Opening:
    """The target fills its cache with the text."""


@dataclass(frozen=True, slots=True)
class Running:
    """The target may decode until the stream has so many tokens."""

    until: int


Phase = Opening | Running


@dataclass(slots=True)
class Figures:
    """num_rounds: passes with guesses; the name is that of the clients' interface."""

    num_rounds: int = 0
    num_plain_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


@dataclass(slots=True)
class Follow:
    """The draft node that follows a stream.

    number: of this following, higher than all before it. told: tokens of the stream that it has
    been told. num_used, num_offered: guesses that passes took, and that were there when they
    began, since it was last told anything. compared_at: the stream's length when a guess of it was
    last compared with what was committed.
    """

    node: str
    number: int
    told: int
    num_used: int = 0
    num_offered: int = 0
    is_ready: bool = False
    compared_at: int = 0


@dataclass(frozen=True, slots=True)
class LastPass:
    """num_guesses: that it took of the stream. num_offered: of its draft node that were there when
    it began. best_chance: of the first of them, or of one that was looked up."""

    num_guesses: int = 0
    num_offered: int = 0
    best_chance: float = 0.0


@dataclass(slots=True)
class Stream:
    """token_ids: the journal, prompt and committed tokens. last_number: of its followings."""

    spec: StreamSpec
    token_ids: list[int]
    fixed_gamma: int | None
    # What its seconds a token count in the plan.
    weight: float = 1.0
    phase: Phase = field(default_factory=Opening)
    follow: Follow | None = None
    last_number: int = 0
    backoff: NodeBackoff = field(default_factory=NodeBackoff)
    figures: Figures = field(default_factory=Figures)
    acceptance: AcceptanceEstimate = field(default_factory=AcceptanceEstimate)
    last_pass: LastPass = LastPass()
    # Tokens that a pass commits to it on average.
    tokens_a_pass: float = 1.0
    # Seconds from one commit to the next, on average; 0.0 before two. When the last one was.
    interval_s: float = 0.0
    committed_at: float | None = None
    num_reopened: int = 0
    # Draft nodes that died with it since one of them sent guesses.
    num_draft_losses: int = 0
    is_parked: bool = False
    # Why no draft node guesses for it at present; "" where one does.
    plain_reason: str = ""

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.spec.num_prompt_tokens

    @property
    def tokens_left(self) -> int:
        return self.spec.max_tokens - self.num_output

    @property
    def wants_follower(self) -> bool:
        return self.fixed_gamma != 0 and self.tokens_left > 1

    @property
    def is_guessed_for(self) -> bool:
        """Whether a draft node has read its text and guesses what follows."""
        return self.follow is not None and self.follow.is_ready

    def current_spec(self, generation: int) -> StreamSpec:
        return replace(self.spec, generation=generation, token_ids=tuple(self.token_ids))

    def count(self, entry: CommitEntry, now: float) -> None:
        """Add what a pass did to the figures."""
        if self.committed_at is not None:
            seconds = now - self.committed_at
            before = self.interval_s or seconds
            self.interval_s = before + _RATE * (seconds - before)
        self.committed_at = now
        if entry.num_draft_tokens:
            self.figures.num_rounds += 1
        elif entry.num_tokens or entry.finish_reason != "length":
            # An end without a token is told of a text that had none to come.
            self.figures.num_plain_steps += 1
        self.acceptance.observe(entry.num_compared, entry.num_right)
        # The first passes count alike.
        num_passes = self.figures.num_rounds + self.figures.num_plain_steps
        rate = max(_RATE, 1.0 / max(1, num_passes))
        self.tokens_a_pass += rate * (entry.num_tokens - self.tokens_a_pass)
        seen = entry.num_draft_tokens, entry.num_offered, entry.best_percent / 100
        self.last_pass = LastPass(*seen)
        self.figures.num_draft_tokens += entry.num_draft_tokens
        self.figures.num_accepted_tokens += entry.num_accepted_tokens
