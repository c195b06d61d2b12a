"""One stream on the target and the cells that it needs."""

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

# Limits for reading the text of an answer that has already begun: pieces a pass, and seconds a
# pass. Its reader waits in the middle of a sentence, so the text is read in few large passes, and
# the other streams wait longer for their next token.
_MOST_MIDWAY_PIECES = 4
_MIDWAY_PASS_S = 0.25


@dataclass(slots=True)
class TargetStream:
    """A stream that the target holds.

    number: rises with each stream that is opened, so it gives their age. generation: that of the
    placement, plus one for each parking. seq_id: its sequence in the engine; None while it is
    parked. lease: the length up to which it may decode. num_read: tokens that were run to fill the
    sequence. next_score: position of the next prompt token to be scored.
    """

    spec: StreamSpec
    number: int
    generation: int
    token_ids: list[int]
    stops: StopMatcher
    sampler: Sampler
    seq_id: int | None = None
    lease: int = 0
    # Guesses of draft nodes for it, and the guesses that are in the current pass.
    buffer: GuessBuffer = field(default_factory=GuessBuffer)
    chosen: Chosen | None = None
    # What it waits for (None: nothing), and when its last token was committed.
    hold: Hold | None = None
    last_commit_at: float = -math.inf
    # Tokens that a pass commits to it, on average.
    tokens_a_pass: float = 1.0
    # Whether the coordinator was notified that the text has been read.
    announced: bool = False
    num_read: int = 0
    # The first token has no token before it and therefore no score.
    next_score: int = 1

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.spec.num_prompt_tokens

    @property
    def tokens_left(self) -> int:
        return self.spec.max_tokens - self.num_output

    @property
    def scores_left(self) -> int:
        """Tokens of the prompt that have no score yet; 0 once there is output."""
        if not self.spec.scores_prompt or self.spec.num_committed:
            return 0
        return self.spec.num_prompt_tokens - self.next_score

    @property
    def num_copyable(self) -> int:
        """Leading tokens that may be copied from another stream's cache instead of being run."""
        return self.next_score - 1 if self.scores_left else len(self.token_ids) - 1

    @property
    def is_over(self) -> bool:
        """Whether the stream has no tokens left to decode and none to score."""
        return self.tokens_left <= 0 and not self.scores_left

    @property
    def num_scores(self) -> int:
        """The scores of one token: its own and those of the alternatives; 0 without scoring."""
        return 1 + self.spec.num_logprobs

    @property
    def cells(self) -> int:
        return cells_soon(len(self.token_ids), self.tokens_left)

    @property
    def may_decode(self) -> bool:
        """Whether its lease allows a token, once its prefix is in the cache."""
        return self.lease > len(self.token_ids)

    def park(self) -> None:
        """Reset the stream after it has left the cache.

        Its lease ends if the coordinator knows of the stream's readiness. Otherwise the lease of
        the opening stays, because the coordinator does not send it again.
        """
        self.num_read = 0
        if self.announced:
            self.lease = 0
            self.announced = False
            self.generation += 1

    def until_end(
        self, token_ids: list[int], eog: Set[int], tokenizer: Tokenizer
    ) -> tuple[list[int], bytes, str]:
        """Returns the tokens up to the end of the text, their bytes, and the reason why it ended
        ("" if it goes on)."""
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
    """Returns how many tokens of begun answers a pass reads beside other streams.

    They are whole pieces, at least one, and take at most a quarter of a second by these costs.
    """
    pieces = _MOST_MIDWAY_PIECES
    while pieces > 1 and decode.at(pieces * PROMPT_PIECE_TOKENS) > _MIDWAY_PASS_S:
        pieces -= 1
    return pieces * PROMPT_PIECE_TOKENS
