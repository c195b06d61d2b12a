"""One stream on the target, and the cells it takes."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nodes.engine.protocol import Tokenizer
from nodes.engine.sampler import Sampler
from nodes.target.guesses import GuessBuffer
from nodes.worker.cells import cells_soon
from nodes.worker.stream import PROMPT_PIECE_TOKENS, StopMatcher, StreamSpec
from policies.latency import CostTable

if TYPE_CHECKING:
    from nodes.target.composing import Chosen
    from nodes.target.holding import Hold

# Where an answer has begun its reader waits in the middle of a sentence: others wait as much longer
# for their next token as it takes to read what was lost or parked in few passes.
_MOST_MIDWAY_PIECES = 4
_MIDWAY_PASS_S = 0.25


@dataclass(slots=True)
class TargetStream:
    """A stream the target holds.

    number: rises with each stream that is opened, so that the youngest can be told.
    generation: of the placement, raised by one each time it is parked.
    seq_id: its sequence in the engine; None while it is parked. num_read: tokens run to fill it.
    next_score: position of the next prompt token to be scored, if any is.
    """

    spec: StreamSpec
    number: int
    generation: int
    token_ids: list[int]
    stops: StopMatcher
    sampler: Sampler
    seq_id: int | None = None
    lease: int = 0
    # What draft nodes have sent for it, and what of that is in the pass under way.
    buffer: GuessBuffer = field(default_factory=GuessBuffer)
    chosen: Chosen | None = None
    # What it waits for, if it does, and when its last token was committed.
    hold: Hold | None = None
    last_commit_at: float = -math.inf
    # Tokens that a pass commits to it on average.
    tokens_a_pass: float = 1.0
    announced: bool = False
    num_read: int = 0
    # The first token follows nothing.
    next_score: int = 1

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.spec.num_prompt_tokens

    @property
    def tokens_left(self) -> int:
        return self.spec.max_tokens - self.num_output

    @property
    def scores_left(self) -> int:
        """Tokens of the prompt that are still to be scored; none once there is output."""
        if not self.spec.scores_prompt or self.spec.num_committed:
            return 0
        return self.spec.num_prompt_tokens - self.next_score

    @property
    def num_copyable(self) -> int:
        """Tokens that need not be run for it: others may have them in the cache."""
        return self.next_score - 1 if self.scores_left else len(self.token_ids) - 1

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done for it, though it had no token to decode."""
        return self.tokens_left <= 0 and not self.scores_left

    @property
    def num_scores(self) -> int:
        """Scores that a token makes: its own, and of those in its place."""
        return 1 + self.spec.num_logprobs

    @property
    def cells(self) -> int:
        return cells_soon(len(self.token_ids), self.tokens_left)

    @property
    def may_decode(self) -> bool:
        """Whether it is asked to go on, once its prefix is in the cache."""
        return self.lease > len(self.token_ids)

    def park(self) -> None:
        """Give up its place in the cache: what it was asked to do is void.

        But not what it may do as soon as it has been read, which nobody asks for again.
        """
        self.num_read = 0
        if self.announced:
            self.lease = 0
            self.announced = False
            self.generation += 1

    def until_end(
        self, token_ids: list[int], eog: Set[int], tokenizer: Tokenizer
    ) -> tuple[list[int], bytes, str]:
        """Tokens up to the end of the text, their bytes, and why it ended ("" if it did not)."""
        kept: list[int] = []
        text = b""
        for token_id in token_ids:
            if token_id in eog and self.spec.ends_at_eog:
                return kept, text + self.stops.flush(), "stop"
            kept.append(token_id)
            shown, stopped = self.stops.push(tokenizer.piece(token_id))
            text += shown
            if stopped:
                return kept, text, "stop"
            if len(kept) >= self.tokens_left:
                return kept, text + self.stops.flush(), "length"
        return kept, text, ""


def midway_tokens(decode: CostTable) -> int:
    """Tokens of answers that have begun that a pass reads beside others: whole pieces, at least
    one, and no more than are read in a quarter of a second by these costs."""
    pieces = _MOST_MIDWAY_PIECES
    while pieces > 1 and decode.at(pieces * PROMPT_PIECE_TOKENS) > _MIDWAY_PASS_S:
        pieces -= 1
    return pieces * PROMPT_PIECE_TOKENS
