"""One stream at the coordinator: its journal, its phase, and the draft node that follows it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from airdraft.nodes.messages import CommitEntry
from airdraft.nodes.scheduler.comparison import Comparison
from airdraft.nodes.telemetry.counts import Plain
from airdraft.nodes.worker.stream import StreamSpec
from airdraft.policies.acceptance import AcceptanceEstimate
from airdraft.policies.latency import PASS_RATE

# A stream loses its draft node after this many tokens without a guess that could be compared: the
# node is silent, or its guesses arrive after the text has passed them. As many tokens later it is
# considered again; that number doubles each time.
SILENT_TOKENS: Final = 64


class NodeBackoff:
    """The draft nodes that a stream avoids for a while.

    A full node may have room later, and a late node may be fast again, but each attempt sends it
    the text.
    """

    def __init__(self) -> None:
        # By node: the stream's length from which on it may be tried again, and the tokens waited.
        self._off: dict[str, tuple[float, int]] = {}

    def add(self, node: str, length: int, *, for_good: bool = False) -> None:
        """Avoid a node for some tokens beyond the stream's present length.

        for_good: for ever, because the node's reason will not change.
        """
        _, waited = self._off.get(node, (0.0, 0))
        wait = max(SILENT_TOKENS, 2 * waited)
        self._off[node] = (math.inf if for_good else length + wait, wait)

    def at(self, length: int) -> frozenset[str]:
        """Returns the nodes that the stream avoids at this length."""
        return frozenset(node for node, (end, _) in self._off.items() if length < end)

    def forget(self, node: str) -> None:
        """Forget a node that has started anew."""
        self._off.pop(node, None)


@dataclass(frozen=True, slots=True)
class ReadingText:
    """The target has not yet read the whole text into its cache."""


@dataclass(frozen=True, slots=True)
class Running:
    """The target may decode until the stream has `until` tokens, prompt included."""

    until: int


Phase = ReadingText | Running


@dataclass(slots=True)
class Figures:
    """Counts of a stream's passes and guesses.

    num_rounds: passes with guesses; the clients' interface uses this name. plain_steps: passes
    without, by the reason. num_cached_tokens: of the prompt, which the target had not to compute.
    """

    num_rounds: int = 0
    plain_steps: Counter[Plain] = field(default_factory=Counter)
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_cached_tokens: int = 0

    @property
    def num_plain_steps(self) -> int:
        return self.plain_steps.total()


@dataclass(slots=True)
class Follow:
    """The draft node that follows a stream.

    number: the number of this following, higher than that of any earlier one. num_sent: how many of
    the stream's tokens were sent to the node. compared_at: the stream's length when a guess of the
    node was last compared with the text. has_diverged: whether its last guesses at the target were
    wrong. num_late, num_taken: guesses that came too late, and that passes took.
    """

    node: str
    number: int
    num_sent: int
    is_ready: bool = False
    compared_at: int = 0
    has_diverged: bool = False
    num_late: int = 0
    num_taken: int = 0


@dataclass(slots=True)
class Stream:
    """What the coordinator knows of a stream.

    token_ids: the journal, which is the prompt and the committed tokens. last_number: the number of
    its latest following.
    """

    spec: StreamSpec
    token_ids: list[int]
    phase: Phase = field(default_factory=ReadingText)
    follow: Follow | None = None
    last_number: int = 0
    backoff: NodeBackoff = field(default_factory=NodeBackoff)
    figures: Figures = field(default_factory=Figures)
    acceptance: AcceptanceEstimate = field(default_factory=AcceptanceEstimate)
    # Guesses that the last pass took, and the chance of the first guess that was there.
    num_guesses: int = 0
    best_chance: float = 0.0
    # Tokens that a pass commits to it, on average.
    tokens_a_pass: float = 1.0
    # Seconds from one commit to the next, on average; 0.0 before the second commit.
    interval_s: float = 0.0
    # Time of the last commit.
    committed_at: float | None = None
    num_reopened: int = 0
    # Draft nodes that died while they followed it, since a draft node last sent guesses for it.
    num_draft_losses: int = 0
    is_parked: bool = False
    # Why the last pass took no guesses of it; "" if it took some.
    plain: Plain | Literal[""] = ""
    # The comparison that left draft nodes out of its last pass labelled `slower`.
    compared: Comparison | None = None
    # Why no draft node follows it, where none does.
    refusal: str = ""

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.spec.num_prompt_tokens

    @property
    def tokens_left(self) -> int:
        return self.spec.max_tokens - self.num_output

    @property
    def fixed_gamma(self) -> int | None:
        """The guesses in every pass, as its client wants; None for as many as pay."""
        return None if self.spec.num_guesses < 0 else self.spec.num_guesses

    def current_spec(self, generation: int) -> StreamSpec:
        return replace(self.spec, generation=generation, token_ids=tuple(self.token_ids))

    def count(self, entry: CommitEntry, plain: Plain, now: float) -> None:
        """Add the result of a pass to the figures and averages.

        plain: why it took no guesses, if it did not.
        """
        if self.committed_at is not None:
            seconds = now - self.committed_at
            before = self.interval_s or seconds
            self.interval_s = before + PASS_RATE * (seconds - before)
        self.committed_at = now
        if entry.num_draft_tokens:
            self.figures.num_rounds += 1
        elif entry.num_tokens or entry.finish_reason != "length":
            # An entry of reason "length" without tokens reports the end of a stream that had no
            # tokens left, so no pass took place.
            self.figures.plain_steps[plain] += 1
        self.plain = "" if entry.num_draft_tokens else plain
        self.acceptance.observe(entry.num_compared, entry.num_right)
        # The first passes have equal weights.
        num_passes = self.figures.num_rounds + self.figures.num_plain_steps
        rate = max(PASS_RATE, 1.0 / max(1, num_passes))
        self.tokens_a_pass += rate * (entry.num_tokens - self.tokens_a_pass)
        self.num_guesses, self.best_chance = entry.num_draft_tokens, entry.best_percent / 100
        self.figures.num_draft_tokens += entry.num_draft_tokens
        self.figures.num_accepted_tokens += entry.num_accepted_tokens
