"""What a draft node keeps of a stream, and what it tells of one."""

from __future__ import annotations

from dataclasses import dataclass, field

from nodes.draft.ahead import Ahead
from nodes.draft.outlook import Outlook
from nodes.engine.sampler import Sampler
from nodes.stream import StreamId, StreamSpec
from nodes.target.events import Failed, Ready
from nodes.target.stream import cells_soon


@dataclass(frozen=True, slots=True)
class Job:
    """One stream of a draft round: tokens newly committed after prefix_len, and the cap gamma.

    stop: guesses end before the first that is less likely than this to be accepted, in [0, 1].
    """

    stream_id: StreamId
    generation: int
    prefix_len: int
    new_token_ids: tuple[int, ...]
    gamma: int
    stop: float = 0.0


@dataclass(frozen=True, slots=True)
class Guess:
    stream_id: StreamId
    generation: int
    prefix_len: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drafted:
    """A round is done; streams that this node does not hold are left out.

    num_ready, num_wasted: as in DraftReply. asked_at: as `draft` was told.
    """

    round: int
    guesses: tuple[Guess, ...]
    num_ready: int = 0
    num_wasted: int = 0
    asked_at: float = 0.0


Event = Ready | Failed | Drafted


@dataclass(slots=True)
class DraftStream:
    spec: StreamSpec
    seq_id: int
    token_ids: list[int]
    # Follows the guesses, and what is drafted ahead of the next ones.
    sampler: Sampler
    cached: list[int] = field(default_factory=list)
    guesses: list[int] = field(default_factory=list)
    gamma: int = 0
    announced: bool = False
    outlook: Outlook = field(default_factory=Outlook)
    ahead: Ahead = field(default_factory=Ahead)

    @property
    def num_missing(self) -> int:
        """Committed tokens that are still to be read; the last one waits for a guess."""
        return max(0, len(self.token_ids) - 1 - len(self.cached))

    @property
    def is_behind(self) -> bool:
        return self.num_missing > 0

    @property
    def cells_soon(self) -> int:
        """Cells that admission counts for it."""
        return cells_of(self.spec, len(self.token_ids))

    def has_ended(self, eog: frozenset[int]) -> bool:
        return bool(self.guesses) and self.guesses[-1] in eog and self.spec.ends_at_eog

    def drafting(self, eog: frozenset[int]) -> bool:
        is_short = len(self.guesses) < self.gamma and not self.outlook.has_stopped
        return is_short and not self.has_ended(eog)


def cells_of(spec: StreamSpec, num_tokens: int) -> int:
    """Cells that admission counts for a stream of which so many tokens have been told, some growth
    and those that are yet to be told included."""
    known = max(num_tokens, spec.num_prompt_tokens, spec.num_known)
    return cells_soon(known, spec.max_tokens - (known - spec.num_prompt_tokens))
