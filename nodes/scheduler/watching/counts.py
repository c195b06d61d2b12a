"""What the streams of one target have come to, counted as it happens.

Kept apart from the scheduler, whose target may leave and come back. A round costs some additions;
what can be derived from them is derived when somebody asks.
"""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal, NamedTuple, get_args

from nodes.messages import MAX_GAMMA, CommitEntry
from nodes.scheduler.stream import Stream, Verifying
from nodes.scheduler.watching.stage_errors import STAGES, Stage

# Observed / predicted.
RATIO_BOUNDS: Final = (0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
# Some seconds of rounds, for a timeline.
MAX_SPANS: Final = 320
# A peer says what its passes take: one number of it must not drown all others.
MOST_S: Final = 3600.0
_MAX_BATCH_NUMBERS = 256

Plain = Literal[
    "asked",
    "no_draft",
    "refused",
    "reading",
    "behind",
    "late",
    "trial",
    "last_token",
    "not_worth",
    "unsure",
]
# Why a step of a stream was a plain one; docs/status.md explains each.
PLAIN_LABELS: Final[tuple[Plain, ...]] = get_args(Plain)
TOKEN_KINDS: Final = ("accepted", "corrected", "bonus", "plain")


def plain_label(stream: Stream) -> Plain:
    """Why a stream that is in no round, or has no guesses in it, is decoded plainly."""
    placement = stream.draft
    if stream.fixed_gamma == 0:
        return "asked"
    if placement is None:
        is_refused = bool(stream.refused_by) or stream.is_off_drafts
        return "refused" if is_refused else "no_draft"
    if placement.is_late:
        return "late"
    if not placement.is_ready:
        return "reading"
    if isinstance(stream.phase, Verifying) or (stream.has_no_match and stream.tokens_left > 1):
        return "unsure"
    if stream.is_on_probation:
        return "trial"
    if stream.is_behind:
        return "behind"
    return "last_token" if stream.tokens_left <= 1 else "not_worth"


class Span(NamedTuple):
    """A stage of a round; batch: its number in the plan, 0 for a pass of leased streams alone."""

    stage: Literal["draft", "pass"]
    node: str
    batch: int
    round_id: int
    start: float
    end: float
    num_tokens: int


@dataclass(slots=True)
class Ratios:
    """Observed / predicted times of one stage: counts up to each of RATIO_BOUNDS, and above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(RATIO_BOUNDS) + 1))
    total: float = 0.0

    def observe(self, observed_s: float, predicted_s: float) -> None:
        if observed_s > 0.0 and predicted_s > 0.0:
            ratio = observed_s / predicted_s
            self.counts[bisect.bisect_left(RATIO_BOUNDS, ratio)] += 1
            self.total += ratio


def _zeros() -> list[int]:
    return [0] * (MAX_GAMMA + 1)


@dataclass(slots=True)
class Counts:
    """Of one target, since the coordinator started.

    by_made, by_accepted, by_whole: rounds of a stream by guesses made, by guesses accepted, and by
    guesses made where all were accepted. gammas: by caps; 0 counts plain steps. num_ahead_used,
    num_ahead_wasted: tokens that draft nodes guessed before they were asked, and what was of use.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    by_made: list[int] = field(default_factory=_zeros)
    by_accepted: list[int] = field(default_factory=_zeros)
    by_whole: list[int] = field(default_factory=_zeros)
    gammas: list[int] = field(default_factory=_zeros)
    plain_steps: Counter[Plain] = field(default_factory=Counter)
    num_late: int = 0
    num_ahead_used: int = 0
    num_ahead_wasted: int = 0
    num_parked: int = 0
    num_reopened: int = 0
    num_texts: int = 0
    num_texts_reused: int = 0
    tokens_read: int = 0
    tokens_reused: int = 0
    num_passes: int = 0
    pass_s: float = 0.0
    num_rounds: int = 0
    num_laps: int = 0
    lap_s: float = 0.0
    ratios: dict[Stage, Ratios] = field(default_factory=lambda: {s: Ratios() for s in STAGES})
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))
    _batch_of: dict[int, int] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.tokens.total()

    def round_started(self, round_id: int, batch: int, gammas: Sequence[int]) -> None:
        """A round goes out. batch: its number in the plan. gammas: caps of its streams."""
        self.num_rounds += 1
        for gamma in gammas:
            self.gammas[gamma] += 1
        self._batch_of[round_id] = batch
        if len(self._batch_of) > _MAX_BATCH_NUMBERS:
            del self._batch_of[next(iter(self._batch_of))]

    def drafted(self, round_id: int, node: str, start: float, end: float, num_tokens: int) -> None:
        batch = self._batch_of.get(round_id, 0)
        self.spans.append(Span("draft", node, batch, round_id, start, end, num_tokens))

    def committed(
        self, entry: CommitEntry, num_tokens: int, plain: Plain, *, is_in_round: bool = False
    ) -> None:
        """What a pass added to a stream. plain: why it had no guesses, if it had none."""
        made = entry.num_draft_tokens
        if not made:
            self.tokens["plain"] += num_tokens
            self.gammas[0] += not is_in_round
            self.plain_steps[plain] += 1
            return
        accepted = min(entry.num_accepted_tokens, made)
        self.by_made[made] += 1
        self.by_accepted[accepted] += 1
        # Where a text ends within the guesses, the target adds nothing.
        right = min(accepted, num_tokens)
        self.tokens["accepted"] += right
        if accepted == made:
            self.by_whole[made] += 1
            self.tokens["bonus"] += num_tokens - right
        else:
            self.tokens["corrected"] += num_tokens - right

    def pass_done(
        self, target: str, pass_s: float, round_id: int, num_tokens: int, now: float
    ) -> None:
        """A target pass is over. round_id: a round in it, 0 if only leased streams were."""
        pass_s = min(max(0.0, pass_s), MOST_S)
        self.num_passes += 1
        self.pass_s += pass_s
        batch = self._batch_of.get(round_id, 0)
        self.spans.append(Span("pass", target, batch, round_id, now - pass_s, now, num_tokens))

    def lap_done(self, lap_s: float) -> None:
        self.num_laps += 1
        self.lap_s += lap_s

    def text_read(self, num_read: int, length: int) -> None:
        """A target has a text in its cache; the rest of it was there from before."""
        self.num_texts += 1
        self.num_texts_reused += num_read < length
        self.tokens_read += num_read
        self.tokens_reused += length - num_read

    def by_position(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Guesses made, judged and accepted, each by position 1 to MAX_GAMMA.

        A guess is judged where all before it were accepted.
        """
        made, accepted = _at_least(self.by_made), _at_least(self.by_accepted)
        # All rounds that accepted those before it, but those that had no other to judge.
        judged = (a - whole for a, whole in zip(accepted, self.by_whole[:-1], strict=False))
        return made[1:], tuple(judged), accepted[1:]


def _at_least(counts: Sequence[int]) -> tuple[int, ...]:
    """Sums of what is at an index and above."""
    return tuple(accumulate(reversed(counts)))[::-1]
