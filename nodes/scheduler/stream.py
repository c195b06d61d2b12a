"""One stream inside the scheduler: its phase, its journal, its placement and its figures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nodes.messages import MAX_PROMPT_TOKENS, CommitEntry, DraftEntry, LeaseEntry
from nodes.scheduler.drafting.lookup import LOOKUP
from nodes.scheduler.drafting.refusals import Refusals
from nodes.scheduler.drafting.tries import Tries
from nodes.scheduler.journal import Journal
from nodes.stream import StreamSpec
from policies.acceptance import AcceptanceEstimate
from policies.plan import MAX_AUTO_GAMMA, MAX_FREE_GAMMA, StreamView


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
    """The target decodes plainly until the stream has `end` tokens; beside_rounds: as in
    LeaseEntry."""

    end: int
    beside_rounds: bool = False


# A draft node that lags by more than this is asked to catch up while the stream goes on plainly.
_MAX_BACKLOG_TOKENS = 16
_MAX_BACKLOG_AFTER = 256
# Draft nodes that may die with a stream before it goes without.
_MOST_DRAFT_LOSSES = 2

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
    # It has done so: what was decoded meanwhile it reads with the first round, or it never ends.
    has_caught_up: bool = False
    # When it was asked to read, while that is waited for.
    asked_at: float | None = None
    # Missed a deadline and has not answered since: not asked until it does.
    is_late: bool = False
    num_late: int = 0
    # The stream's length from which on it may move again.
    settled_at: int = 0


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
    # What its seconds a token count in the plan.
    weight: float = 1.0
    phase: Phase = field(default_factory=Opening)
    draft: DraftPlacement | None = None
    draft_generation: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    acceptance: AcceptanceEstimate = field(default_factory=AcceptanceEstimate)
    figures: Figures = field(default_factory=Figures)
    # What was learnt with draft nodes it is not on now; after lookup the present estimate is not
    # one of a draft node.
    known: dict[str, AcceptanceEstimate] = field(default_factory=dict)
    was_by_lookup: bool = False
    # Its length when it was last asked whether another draft suits it better.
    reconsidered_at: int = 0
    # Rounds on trial, where those are made.
    tries: Tries | None = None
    # Times that it was opened anew where it is, since its last token.
    num_reopened: int = 0
    # Draft nodes that died with it, since one of them answered.
    num_draft_losses: int = 0
    # The target took it out of its cache, for want of cells.
    is_parked: bool = False
    # Lookup serves it, and found nothing worth a round when it last looked.
    has_no_match: bool = False
    # Why its draft node does not draft for it, where that is known; else the plan tells.
    plain_reason: str = ""

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.spec.num_prompt_tokens

    @property
    def tokens_left(self) -> int:
        return self.spec.max_tokens - self.num_output

    def current_spec(self, generation: int) -> StreamSpec:
        return replace(self.spec, generation=generation, token_ids=tuple(self.token_ids))

    @property
    def refused_by(self) -> frozenset[str]:
        """Draft nodes that it is kept off at this length."""
        return self.refusals.at(len(self.token_ids))

    def keep_off(self, node: str, *, for_good: bool = False) -> None:
        """As Refusals.add."""
        self.refusals.add(node, len(self.token_ids), for_good=for_good)

    @property
    def is_off_drafts(self) -> bool:
        """Whether it may be what ends draft nodes: it is placed on none any more."""
        return self.num_draft_losses >= _MOST_DRAFT_LOSSES

    @property
    def wants_draft(self) -> bool:
        """Whether a draft node may guess for it."""
        return self.fixed_gamma != 0 and not self.is_off_drafts

    @property
    def is_moving(self) -> bool:
        """Whether a draft node reads it that did not when it came."""
        placement = self.draft
        return placement is not None and not placement.is_ready and placement.settled_at > 0

    @property
    def is_by_lookup(self) -> bool:
        return self.draft is not None and self.draft.node == LOOKUP

    @property
    def is_on_probation(self) -> bool:
        """Whether its draft node's guesses are tried before the first round."""
        if self.tries is None or self.draft is None or self.is_by_lookup:
            return False
        return self.figures.num_rounds == 0 and self.tries.are_first(self.num_output)

    def is_untried_by(self, node: str) -> bool:
        """Whether a draft node holds it that has yet to show what its guesses are worth to it."""
        is_there = self.draft is not None and self.draft.node == node
        return is_there and self.tries is not None and self.acceptance.is_untried

    @property
    def is_away(self) -> bool:
        """In a round."""
        return isinstance(self.phase, Drafting | Verifying)

    @property
    def can_guess(self) -> bool:
        placement = self.draft
        return placement is not None and placement.is_ready and not placement.is_late

    @property
    def backlog(self) -> int:
        """Tokens that its draft node neither knows nor has guessed."""
        placement = self.draft
        assert placement is not None
        return len(self.token_ids) - placement.known - placement.gamma

    @property
    def is_behind(self) -> bool:
        """Whether its draft node has much to read before the first guess, or is reading it."""
        placement = self.draft
        if placement is None or self.is_by_lookup or not self.can_guess:
            return False
        backlog = self.backlog
        limit = _MAX_BACKLOG_AFTER if placement.has_caught_up else _MAX_BACKLOG_TOKENS
        return placement.catching_up or backlog > limit

    def drop_trial(self) -> None:
        """Its draft node does something else now: an answer that comes yet tells nothing."""
        if self.tries is not None:
            self.tries.trial = None

    def view(self, extra_s: float = 0.0) -> StreamView:
        """What policies are told; extra_s as there."""
        acceptance, placement = self.acceptance, self.draft
        # A node that still reads the prompt will guess soon: no plan is made for the meantime.
        will_guess = placement is not None and not placement.is_late and not self.is_on_probation
        # Nor for its last tokens: they are a pass or two, after which another one takes its place.
        most = MAX_FREE_GAMMA if self.is_by_lookup else MAX_AUTO_GAMMA
        is_short = self.spec.max_tokens <= most
        tokens_left = self.tokens_left if is_short else max(self.tokens_left, most + 1)
        return StreamView(
            stream_id=self.spec.stream_id,
            alpha=acceptance.alpha,
            tokens_left=tokens_left,
            fixed_gamma=self.fixed_gamma,
            draft=placement.node if placement is not None and will_guess else None,
            weight=self.weight,
            alphas=acceptance.alphas,
            # Whose client chose the number of guesses is not stopped.
            kept=1.0 if self.fixed_gamma is not None else acceptance.kept,
            starts=1.0 if self.fixed_gamma is not None else acceptance.starts,
            extra_s=extra_s,
        )

    def extend_lease(
        self, num_tokens: int, low: int, *, beside_rounds: bool = False
    ) -> list[LeaseEntry]:
        """Begin a lease at the journal's end, or extend one of which at most `low` tokens are left.

        Nothing where it would not end later than it does, and is what it was. beside_rounds: as in
        LeaseEntry.
        """
        phase, length = self.phase, len(self.token_ids)
        end = length + min(num_tokens, self.tokens_left)
        if isinstance(phase, Leased):
            if phase.end - length > low or end <= phase.end:
                end = phase.end
            if phase == Leased(end, beside_rounds):
                return []
        elif not isinstance(phase, Idle):
            return []
        self.phase = Leased(end, beside_rounds)
        stream_id, generation = self.spec.stream_id, self.spec.generation
        return [LeaseEntry(stream_id, generation, length, end - length, beside_rounds)]

    def draft_entry(
        self,
        gamma: int,
        new_token_ids: list[int],
        stop: float = 0.0,
        most: int = MAX_PROMPT_TOKENS,
    ) -> DraftEntry:
        """Describe the stream for a draft request, adding what its node has not been told.

        most: so many tokens of it, where no guesses are asked for.
        """
        placement = self.draft
        assert placement is not None
        unknown = self.token_ids[placement.known :][:most]
        new_token_ids += unknown
        entry = DraftEntry(
            self.spec.stream_id,
            placement.generation,
            placement.known,
            len(unknown),
            gamma,
            round(100 * stop),
        )
        placement.known += len(unknown)
        placement.gamma = gamma
        if gamma:
            placement.has_caught_up = False
        return entry

    def catch_up(self) -> int:
        """Tokens its draft node runs before the first guess: accepted ones are in its cache."""
        placement = self.draft
        assert placement is not None
        num_new = len(self.token_ids) - placement.known
        if num_new <= placement.gamma:
            return 1
        return 2 if num_new == placement.gamma + 1 else num_new

    def count(self, entry: CommitEntry, num_asked: int) -> None:
        """Book what a pass did for the stream; num_asked: guesses it tells of."""
        figures = self.figures
        if isinstance(self.phase, Verifying):
            figures.num_rounds += 1
        elif entry.num_tokens or entry.num_draft_tokens or self.tokens_left:
            figures.num_plain_steps += 1
        figures.num_draft_tokens += entry.num_draft_tokens
        figures.num_accepted_tokens += entry.num_accepted_tokens
        # What lookup is worth is learnt from the text itself.
        if not self.is_by_lookup:
            self.acceptance.observe(entry.num_draft_tokens, entry.num_accepted_tokens, num_asked)


def as_round_stream(journal: Journal) -> Stream:
    """A stream to go on with here, which another kind of scheduler may have had."""
    if isinstance(journal, Stream):
        return journal
    known = journal.spec, journal.token_ids, journal.fixed_gamma, journal.weight
    return Stream(*known, figures=journal.figures)
