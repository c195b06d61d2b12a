"""One stream inside the scheduler: its phase, its journal, its placement and its figures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nodes.messages import CommitEntry, DraftEntry, LeaseEntry
from nodes.stream import StreamSpec
from policies.acceptance import AcceptanceEstimate
from policies.plan import StreamView


@dataclass(frozen=True, slots=True)
class Opening:
    """The target fills its cache with the prefix."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Ready for the next round."""


@dataclass(frozen=True, slots=True)
class Drafting:
    round_id: int


@dataclass(frozen=True, slots=True)
class Verifying:
    round_id: int


@dataclass(frozen=True, slots=True)
class Leased:
    """The target decodes plainly until the stream has `end` tokens."""

    end: int


# A draft node that lags by more than this is asked to catch up while the stream goes on plainly.
_MAX_BACKLOG_TOKENS = 16

Phase = Opening | Idle | Drafting | Verifying | Leased


@dataclass(slots=True)
class DraftPlacement:
    """The draft node that holds a stream.

    known: tokens it has been told of. gamma: guesses it was last asked for. num_late: deadlines it
    missed for this stream.
    """

    node: str
    generation: int
    known: int
    is_ready: bool = False
    gamma: int = 0
    # It reads what was decoded plainly, and says when it has.
    catching_up: bool = False
    # Missed a deadline and has not answered since: not asked until it does.
    is_late: bool = False
    num_late: int = 0


@dataclass(slots=True)
class Figures:
    num_rounds: int = 0
    num_plain_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


@dataclass(slots=True)
class Stream:
    spec: StreamSpec
    token_ids: list[int]
    fixed_gamma: int | None
    phase: Phase = field(default_factory=Opening)
    draft: DraftPlacement | None = None
    draft_generation: int = 0
    refused_by: set[str] = field(default_factory=set)
    acceptance: AcceptanceEstimate = field(default_factory=AcceptanceEstimate)
    figures: Figures = field(default_factory=Figures)
    # Why its draft node does not draft for it, where that is known; else the plan tells.
    plain_reason: str = ""

    @property
    def tokens_left(self) -> int:
        return self.spec.max_tokens - (len(self.token_ids) - self.spec.num_prompt_tokens)

    def current_spec(self, generation: int) -> StreamSpec:
        return replace(self.spec, generation=generation, token_ids=tuple(self.token_ids))

    @property
    def is_away(self) -> bool:
        """In a round."""
        return isinstance(self.phase, Drafting | Verifying)

    @property
    def can_guess(self) -> bool:
        placement = self.draft
        return placement is not None and placement.is_ready and not placement.is_late

    def wants_lease(self, lease_low: int) -> bool:
        """Idle, or leased and soon at the lease's end (but not at the stream's own)."""
        phase = self.phase
        if isinstance(phase, Leased):
            left = phase.end - len(self.token_ids)
            return left <= lease_low and left < self.tokens_left
        return isinstance(phase, Idle)

    @property
    def is_behind(self) -> bool:
        """Whether its draft node has much to read before the first guess, or is reading it."""
        placement = self.draft
        if placement is None or not self.can_guess:
            return False
        backlog = len(self.token_ids) - placement.known - placement.gamma
        return placement.catching_up or backlog > _MAX_BACKLOG_TOKENS

    def view(self) -> StreamView:
        acceptance, placement = self.acceptance, self.draft
        # A node that still reads the prompt will guess soon: no plan is made for the meantime.
        will_guess = placement is not None and not placement.is_late
        return StreamView(
            stream_id=self.spec.stream_id,
            alpha=acceptance.alpha,
            tokens_left=self.tokens_left,
            fixed_gamma=self.fixed_gamma,
            draft=placement.node if placement is not None and will_guess else None,
            alphas=acceptance.alphas,
        )

    def take_lease(self, num_tokens: int) -> LeaseEntry:
        """Extend the lease, or begin one at the journal's end."""
        length = len(self.token_ids)
        end = min(length + num_tokens, length + self.tokens_left)
        self.phase = Leased(end)
        return LeaseEntry(self.spec.stream_id, self.spec.generation, length, end - length)

    def draft_entry(self, gamma: int, new_token_ids: list[int]) -> DraftEntry:
        """Describe the stream for a draft request, adding what its node has not been told."""
        placement = self.draft
        assert placement is not None
        unknown = self.token_ids[placement.known :]
        new_token_ids += unknown
        entry = DraftEntry(
            self.spec.stream_id, placement.generation, placement.known, len(unknown), gamma
        )
        placement.known = len(self.token_ids)
        placement.gamma = gamma
        return entry

    def catch_up(self) -> int:
        """Tokens its draft node runs before the first guess: accepted ones are in its cache."""
        placement = self.draft
        assert placement is not None
        num_new = len(self.token_ids) - placement.known
        if num_new <= placement.gamma:
            return 1
        return 2 if num_new == placement.gamma + 1 else num_new

    def count(self, entry: CommitEntry) -> None:
        figures = self.figures
        if isinstance(self.phase, Verifying):
            figures.num_rounds += 1
        else:
            figures.num_plain_steps += 1
        figures.num_draft_tokens += entry.num_draft_tokens
        figures.num_accepted_tokens += entry.num_accepted_tokens
        self.acceptance.observe(entry.num_draft_tokens, entry.num_accepted_tokens)
