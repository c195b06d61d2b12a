"""What the streams of one target have come to, counted as it happens.

Kept apart from the scheduler, whose target may leave and come back. A pass costs some additions;
what can be derived from them is derived when somebody asks.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal, NamedTuple, get_args

from nodes.messages import MAX_GAMMA, CommitEntry
from nodes.telemetry.stage_errors import STAGES, Stage

# Observed / predicted.
RATIO_BOUNDS: Final = (0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
# Some seconds of passes and guesses, for a timeline.
MAX_SPANS: Final = 320

Plain = Literal[
    "asked", "last_token", "no_draft", "slower", "refused", "reading", "none_there", "not_worth"
]
# Why a pass took no guesses of a stream; docs/reference/metrics-and-status.md explains each.
PLAIN_LABELS: Final[tuple[Plain, ...]] = get_args(Plain)
TOKEN_KINDS: Final = ("accepted", "corrected", "bonus", "plain")
Fate = Literal["taken", "not_chosen", "late", "looked_up"]
# What became of guesses: a pass took them; they were there when it began, and it did not take them;
# they came after the pass that could have used them; the target looked them up itself.
FATES: Final[tuple[Fate, ...]] = get_args(Fate)


class Span(NamedTuple):
    """A pass of the target, or a message with guesses, which takes no time here. num_guesses: of
    the tokens, those that were guessed."""

    stage: Literal["guesses", "pass"]
    node: str
    start: float
    end: float
    num_tokens: int
    num_guesses: int


@dataclass(slots=True)
class Ratios:
    """Observed / predicted times of one stage: counts up to each of RATIO_BOUNDS, and above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(RATIO_BOUNDS) + 1))
    total: float = 0.0

    def observe(self, observed_s: float, predicted_s: float) -> None:
        if observed_s > 0.0 and 0.0 < predicted_s < math.inf:
            ratio = observed_s / predicted_s
            self.counts[bisect.bisect_left(RATIO_BOUNDS, ratio)] += 1
            self.total += ratio


def _zeros() -> list[int]:
    return [0] * (MAX_GAMMA + 1)


@dataclass(slots=True)
class Counts:
    """Of one target, since the coordinator started.

    by_made, by_accepted, by_whole: passes of a stream by guesses taken, by guesses accepted, and by
    guesses taken where all were accepted; by_made[0] counts plain ones. guesses: what became of
    them. num_compared: guesses of draft nodes, taken or not, that were compared with the text;
    num_right of them were right.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    by_made: list[int] = field(default_factory=_zeros)
    by_accepted: list[int] = field(default_factory=_zeros)
    by_whole: list[int] = field(default_factory=_zeros)
    plain_steps: Counter[Plain] = field(default_factory=Counter)
    guesses: Counter[Fate] = field(default_factory=Counter)
    num_compared: int = 0
    num_right: int = 0
    num_messages: int = 0
    num_parked: int = 0
    num_reopened: int = 0
    num_texts: int = 0
    num_texts_reused: int = 0
    tokens_read: int = 0
    tokens_reused: int = 0
    num_passes: int = 0
    pass_s: float = 0.0
    ratios: dict[Stage, Ratios] = field(default_factory=lambda: {s: Ratios() for s in STAGES})
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))

    @property
    def num_tokens(self) -> int:
        return self.tokens.total()

    def guessed(self, node: str, num_tokens: int, now: float) -> None:
        """A message with guesses of a draft node has come."""
        self.num_messages += 1
        self.spans.append(Span("guesses", node, now, now, num_tokens, num_tokens))

    def committed(self, entry: CommitEntry, num_tokens: int, plain: Plain) -> None:
        """What a pass added to a stream. plain: why it had no guesses, if it had none."""
        made = entry.num_draft_tokens
        # More than there were cannot be: no counter may fall.
        looked_up = min(entry.num_looked_up, made)
        self.num_compared += entry.num_compared
        self.num_right += min(entry.num_right, entry.num_compared)
        self.guesses["taken"] += made - looked_up
        self.guesses["looked_up"] += looked_up
        self.guesses["late"] += entry.num_late
        self.guesses["not_chosen"] += max(0, entry.num_offered - (made - looked_up))
        if not entry.num_tokens and entry.finish_reason == "length":
            # No pass: a text that had no token to come has ended.
            return
        self.by_made[made] += 1
        if not made:
            self.tokens["plain"] += num_tokens
            self.plain_steps[plain] += 1
            return
        accepted = min(entry.num_accepted_tokens, made)
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
        self, target: str, pass_s: float, num_tokens: int, num_guesses: int, now: float
    ) -> None:
        """A pass of the target is over."""
        self.num_passes += 1
        self.pass_s += pass_s
        self.spans.append(Span("pass", target, now - pass_s, now, num_tokens, num_guesses))

    def text_read(self, num_read: int, length: int) -> None:
        """A target has a text in its cache; the rest of it was there from before."""
        self.num_texts += 1
        self.num_texts_reused += num_read < length
        self.tokens_read += num_read
        self.tokens_reused += length - num_read

    def by_position(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Guesses taken, judged and accepted, each by position 1 to MAX_GAMMA.

        A guess is judged where all before it were accepted.
        """
        made, accepted = _at_least(self.by_made), _at_least(self.by_accepted)
        # All passes that accepted those before it, but those that had no other to judge.
        judged = (a - whole for a, whole in zip(accepted, self.by_whole[:-1], strict=False))
        return made[1:], tuple(judged), accepted[1:]


def _at_least(counts: Sequence[int]) -> tuple[int, ...]:
    """Sums of what is at an index and above."""
    return tuple(accumulate(reversed(counts)))[::-1]
