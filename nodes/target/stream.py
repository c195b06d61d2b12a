"""One stream on the target: the guesses for it, what a pass commits to it, and its events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from airdraft.nodes.engine.masks import MaskMissingError
from airdraft.nodes.engine.protocol import Logits, StreamError, Tokenizer
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.engine.sampling import top_k_ids
from airdraft.nodes.messages import (
    CommitEntry,
    HoldEntry,
    ProbeReply,
    PromptScoresNotice,
    Score,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokenScores,
)
from airdraft.nodes.target.guess_buffer import GuessBuffer, GuessFates
from airdraft.nodes.target.proposals import Source
from airdraft.nodes.worker.stream import StopMatcher, StreamSpec, cells_soon, failed_by
from airdraft.policies.latency import PASS_RATE

# The score of tokens that a model rules out, because messages hold no infinities.
_LEAST_LOGPROB: Final = -9999.0
# The most scores of a notice, each with its token's text. Gateway and client read a notice in one
# step, and 256 tokens with 20 others each took them 57 to 100 ms, 10 to 19 us a score.
_SCORES_PER_NOTICE: Final = 512


@dataclass(frozen=True, slots=True)
class Committed:
    """What a pass added to a stream: its entry of the CommitReply, and the tokens."""

    entry: CommitEntry
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """What else a pass that committed tokens cost.

    num_read: tokens of prompts that it also read. turn_s: seconds of the draft's steps before it.
    """

    num_read: int
    turn_s: float


# Notices are sent to the coordinator as they are.
Notice = (
    StreamReadyNotice | StreamFailedNotice | StreamParkedNotice | PromptScoresNotice | ProbeReply
)
Event = Notice | Committed | Beside


@dataclass(frozen=True, slots=True)
class Chosen:
    """Guesses of a stream in a pass.

    num_offered: guesses of the draft node that were present. best_chance: chance of the first
    present guess, whether taken or not.
    """

    token_ids: tuple[int, ...] = ()
    source: Source = "node"
    num_offered: int = 0
    best_chance: float = 0.0


NOTHING: Final = Chosen()


@dataclass(slots=True)
class TargetStream:
    """A stream that the target holds.

    generation: that of the placement, plus one for each parking. seq_id: its sequence in the
    engine; None while it is parked. lease: the length up to which it may decode. num_read: tokens
    that were run to fill the sequence. next_score: position of the next prompt token to be scored.
    """

    spec: StreamSpec
    generation: int
    token_ids: list[int]
    stops: StopMatcher
    sampler: Sampler
    seq_id: int | None = None
    lease: int = 0
    # Guesses of draft nodes for it.
    buffer: GuessBuffer = field(default_factory=GuessBuffer)
    # What it waits for (None: nothing), and when its last token was committed.
    hold: HoldEntry | None = None
    last_commit_at: float = -math.inf
    # Tokens that a pass commits to it, on average.
    tokens_a_pass: float = 1.0
    # Whether the coordinator was notified that the text has been read.
    announced: bool = False
    num_read: int = 0
    # Whether it sits passes out until the mask of its next token has been computed.
    waits_for_mask: bool = False
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
        return self.lease > len(self.token_ids) and not self.waits_for_mask

    @property
    def may_guess(self) -> bool:
        """Whether a pass may take guesses for it: with slow masks, it would wait for each."""
        return self.sampler.grammar is None or not self.sampler.grammar.is_slow

    def park(self) -> StreamParkedNotice:
        """Reset the stream, which is not in the cache, and return the notice of it.

        Its lease and its hold end: the coordinator sends them again once the text is read again.
        """
        notice = StreamParkedNotice(self.spec.stream_id, self.generation)
        self.num_read, self.lease, self.hold = 0, 0, None
        self.announced = False
        self.generation += 1
        return notice

    def commit(
        self, logits: Logits, chosen: Chosen, eog: Set[int], tokenizer: Tokenizer
    ) -> Committed | StreamFailedNotice | None:
        """Verify guesses against the rows of logits, and append the tokens that follow.

        Returns None, and changes nothing, if the mask of the first token is missing.
        """
        spec, prefix_len, guesses = self.spec, len(self.token_ids), chosen.token_ids
        try:
            token_ids, num_accepted = self.sampler.verify(logits, prefix_len, guesses)
        except StreamError as error:
            return failed_by(spec.stream_id, self.generation, error)
        except MaskMissingError:
            return None
        kept, text, reason = self.until_end(token_ids, eog, tokenizer)
        scores: tuple[TokenScores, ...] = ()
        if spec.num_logprobs >= 0:
            scores = score_rows(logits, kept, spec.num_logprobs, tokenizer.piece)
        self.token_ids += kept
        self.tokens_a_pass += PASS_RATE * (len(kept) - self.tokens_a_pass)
        self.buffer.compare(self.token_ids)
        fates, self.buffer.fates = self.buffer.fates, GuessFates()
        entry = CommitEntry(
            stream_id=spec.stream_id,
            generation=self.generation,
            prefix_len=prefix_len,
            num_tokens=len(kept),
            num_draft_tokens=len(guesses),
            num_accepted_tokens=num_accepted,
            finish_reason=reason,
            text=text,
            scores=scores,
            num_compared=fates.num_compared,
            num_right=fates.num_right,
            num_other=fates.num_other,
            num_late=fates.num_late,
            num_looked_up=len(guesses) if chosen.source == "lookup" else 0,
            num_in_turns=len(guesses) if chosen.source == "turns" else 0,
            num_offered=chosen.num_offered,
            best_percent=round(100 * chosen.best_chance),
        )
        return Committed(entry, tuple(kept))

    def score(self, logits: Logits, tokenizer: Tokenizer) -> list[PromptScoresNotice]:
        """Score prompt tokens. logits: (n, num_vocab), from the next unscored position on."""
        spec, begin = self.spec, self.next_score
        num_top = max(0, spec.num_logprobs)
        token_ids = self.token_ids[begin : begin + len(logits)]
        self.next_score += len(logits)
        scores = score_rows(logits, token_ids, num_top, tokenizer.piece)
        size = _SCORES_PER_NOTICE // (1 + num_top)
        return [
            PromptScoresNotice(
                spec.stream_id, self.generation, begin + first, scores[first : first + size]
            )
            for first in range(0, len(scores), size)
        ]

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


def score_rows(
    logits: Logits, token_ids: Sequence[int], num_top: int, piece: Callable[[int], bytes]
) -> tuple[TokenScores, ...]:
    """Score one token a row, with the num_top best tokens of the row; ties go to the lowest id.

    logits: (n, num_vocab), with n at least the number of tokens; row i belongs to token_ids[i].
    """
    return tuple(
        _scored(row, token_id, num_top, piece)
        for row, token_id in zip(logits, token_ids, strict=False)
    )


def _scored(row: Logits, token_id: int, num_top: int, piece: Callable[[int], bytes]) -> TokenScores:
    exact = row.astype(np.float64)
    best = exact.max()
    exact -= best
    np.exp(exact, out=exact)
    norm = float(best) + float(np.log(exact.sum()))

    def score(scored_id: int) -> Score:
        logprob = float(row[scored_id]) - norm
        # This comparison also replaces NaN.
        known = logprob if logprob > _LEAST_LOGPROB else _LEAST_LOGPROB
        return Score(scored_id, known, piece(scored_id))

    top = top_k_ids(row, num_top).tolist() if num_top else []
    return TokenScores(score(token_id), tuple(score(top_id) for top_id in top))
