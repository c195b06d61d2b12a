"""Counters for the streams of one target.

They are separate from the scheduler, because its target may leave and come back. A pass costs some
additions. Derived values are computed only when they are requested.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal, get_args

import numpy as np

from airdraft.nodes.messages import MAX_GAMMA, CommitEntry
from airdraft.nodes.telemetry.status import ErrorStatus, SpanStatus

# pass: the seconds of a pass of the target. plan: the weighted sum over streams of seconds a token,
# by which plans are compared.
Stage = Literal["pass", "plan"]
STAGES: Final[tuple[Stage, ...]] = ("pass", "plan")
# Enough cases for a 95th percentile of errors, and little memory for each target.
_MOST_ERRORS: Final = 1000
# Enough for some seconds of passes and guesses in a timeline.
MAX_SPANS: Final = 320

Plain = Literal[
    "asked",
    "last_token",
    "policy",
    "measuring",
    "no_draft",
    "no_turn",
    "slower",
    "refused",
    "reading",
    "after_wrong",
    "none_there",
    "not_worth",
]
# Why a pass took no guesses of a stream, and the figures that decided it.
PLAIN_TEXTS: Final[dict[Plain, tuple[str, str]]] = {
    "asked": ("the request asks for none", ""),
    "last_token": ("one token is left", ""),
    "policy": ("the coordinator's policy is plain decoding", ""),
    "measuring": ("draft nodes pause, so that the speed without them is measured", ""),
    "no_draft": ("no draft node follows the stream", "{refusal}"),
    "no_turn": ("the draft model in the target's process promised less than its time costs", ""),
    "slower": ("tokens came faster without draft nodes", "with them {gain:.2f} of that speed"),
    "refused": ("draft nodes refused the stream", "{refusal}"),
    "reading": ("a draft node is reading the text", "{node}"),
    "after_wrong": (
        "a draft node was told that its guess was wrong",
        "{node}: {rtt_ms:.0f} ms there and back, step {step_ms:.0f} ms, pass {pass_ms:.0f} ms",
    ),
    "none_there": (
        "no guess was there in time",
        "{node}: {num_late} late, {num_taken} taken, step {step_ms:.0f} ms, pass {pass_ms:.0f} ms",
    ),
    "not_worth": ("a guess would not have saved time", "chance {chance:.2f}, needs {needed:.2f}"),
}
TOKEN_KINDS: Final = ("accepted", "corrected", "bonus", "plain")
Fate = Literal["taken", "not_chosen", "late", "looked_up", "in_turns"]
# What became of guesses: a pass took them from a draft node; they were there when a pass began, but
# it did not take them; they came after the pass that could have used them; a pass took them from
# prompt lookup, or from the draft model in the target's process.
FATES: Final[tuple[Fate, ...]] = get_args(Fate)


@dataclass(slots=True)
class Ratios:
    """Observed / predicted times of one stage. last: The last of them."""

    last: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_ERRORS))

    def observe(self, observed_s: float, predicted_s: float) -> None:
        """Record a case. Predictions that are not positive and finite count as unknown."""
        if observed_s > 0.0 and 0.0 < predicted_s < math.inf:
            self.last.append(observed_s / predicted_s)

    def errors(self) -> ErrorStatus:
        """Returns |observed - predicted| / predicted; 0.0 while there are no cases."""
        errors = np.abs(np.array(self.last or (1.0,)) - 1.0)
        median, p95 = np.quantile(errors, (0.5, 0.95))
        return ErrorStatus(len(self.last), float(median), float(p95))


def _zeros() -> list[int]:
    return [0] * (MAX_GAMMA + 1)


@dataclass(slots=True)
class Counts:
    """The counters of one target since the coordinator started.

    by_made, by_accepted, by_whole: Passes of a stream by the number of guesses taken, by the number
    accepted, and by the number taken where all were accepted; by_made[0] counts plain passes.
    guesses: Guesses by what became of them. num_compared, num_right: Sums of those of CommitEntry.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    by_made: list[int] = field(default_factory=_zeros)
    by_accepted: list[int] = field(default_factory=_zeros)
    by_whole: list[int] = field(default_factory=_zeros)
    plain_steps: Counter[Plain] = field(default_factory=Counter)
    guesses: Counter[Fate] = field(default_factory=Counter)
    num_compared: int = 0
    num_right: int = 0
    tokens_read: int = 0
    tokens_reused: int = 0
    num_passes: int = 0
    pass_s: float = 0.0
    ratios: dict[Stage, Ratios] = field(default_factory=lambda: {s: Ratios() for s in STAGES})
    spans: deque[SpanStatus] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))

    @property
    def num_tokens(self) -> int:
        return self.tokens.total()

    def errors(self) -> dict[Stage, ErrorStatus]:
        return {stage: ratios.errors() for stage, ratios in self.ratios.items()}

    def guessed(self, node: str, num_tokens: int, now: float) -> None:
        """Count a message with guesses of a draft node."""
        self.spans.append(SpanStatus("guesses", node, now, now, num_tokens, num_tokens))

    def committed(self, entry: CommitEntry, num_tokens: int, plain: Plain) -> None:
        """Count the result of a pass for a stream. plain: Why it took no guesses, if it did not."""
        made = entry.num_draft_tokens
        # The number is limited because no counter may decrease.
        looked_up = min(entry.num_looked_up, made)
        in_turns = min(entry.num_in_turns, made - looked_up)
        taken = made - looked_up - in_turns
        self.num_compared += entry.num_compared
        self.num_right += min(entry.num_right, entry.num_compared)
        self.guesses["taken"] += taken
        self.guesses["looked_up"] += looked_up
        self.guesses["in_turns"] += in_turns
        self.guesses["late"] += entry.num_late
        self.guesses["not_chosen"] += max(0, entry.num_offered - taken)
        if not entry.num_tokens and entry.finish_reason == "length":
            # There was no pass: the text ended because no token was left to generate.
            return
        self.by_made[made] += 1
        if not made:
            self.tokens["plain"] += num_tokens
            self.plain_steps[plain] += 1
            return
        accepted = min(entry.num_accepted_tokens, made)
        self.by_accepted[accepted] += 1
        # If the text ends within the guesses, the target adds no token.
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
        """Count a pass of the target."""
        self.num_passes += 1
        self.pass_s += pass_s
        self.spans.append(SpanStatus("pass", target, now - pass_s, now, num_tokens, num_guesses))

    def text_read(self, num_read: int, length: int) -> None:
        """Count a prompt that the target has read; the rest of it was in its caches.

        num_read: The tokens read before the last one, which the first pass of the answer runs.
        """
        num_run = min(num_read + 1, length)
        self.tokens_read += num_run
        self.tokens_reused += length - num_run

    def by_position(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Returns guesses taken, judged and accepted, each by position 1 to MAX_GAMMA.

        A guess is judged if all guesses before it were accepted.
        """
        made, accepted = _at_least(self.by_made), _at_least(self.by_accepted)
        # All passes that accepted the guesses before a position, without those that had no more.
        judged = (a - whole for a, whole in zip(accepted, self.by_whole[:-1], strict=False))
        return made[1:], tuple(judged), accepted[1:]


def _at_least(counts: Sequence[int]) -> tuple[int, ...]:
    """Returns for each index the sum of the counts from it on."""
    return tuple(accumulate(reversed(counts)))[::-1]
