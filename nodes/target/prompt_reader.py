"""Chooses the pieces of waiting texts that the next pass reads. Pure."""

from __future__ import annotations

from airdraft.nodes.engine.protocol import Span, Tokenizer
from airdraft.nodes.target.residents import Residents
from airdraft.nodes.target.stream import TargetStream
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS
from airdraft.policies.latency import CostTable

# Limits for reading the text of an answer that has already begun: pieces a pass, and seconds a
# pass. Its reader waits in the middle of a sentence, so the text is read in few large passes, and
# the other streams wait longer for their next token.
_MOST_MIDWAY_PIECES = 4
_MIDWAY_PASS_S = 0.25
# The most bytes of scores in a pass, which leave a quarter of a CommitReply for the texts.
MAX_SCORE_BYTES = 3 << 18


class PromptReader:
    """Takes turns among the waiting texts. decode: the costs of passes."""

    def __init__(self, decode: CostTable) -> None:
        # Most tokens of begun answers that a pass reads beside other streams.
        self._midway_tokens = midway_tokens(decode)
        self._num_reads = 0

    def choose_pieces(
        self,
        residents: Residents,
        budget: int,
        score_budget: int,
        *,
        most_scores: int,
        is_beside_others: bool,
        has_others: bool,
    ) -> list[tuple[TargetStream, Span | None]]:
        """Returns streams with a piece of their text each; pieces are small if others decode.

        The oldest prompt and the one with the fewest tokens left go first in turns. So a short
        prompt does not wait for a long one, and short ones take at most half of a long one's turns.
        Answers that have begun go before those that have not, except every fourth time. A stream
        waits while an earlier one is about to read the same tokens.
        most_scores: of a prompt in one pass, so that they fit a message.
        """
        waiting = [stream for stream in residents if residents.missing(stream)]
        if not waiting:
            return []
        prompt_budget = budget
        if is_beside_others or has_others:
            # Streams that do not decode now may continue at any moment, and wait for this pass.
            prompt_budget = PROMPT_PIECE_TOKENS
        midway = sum(residents.missing(stream) for stream in waiting if stream.num_output)
        budget = min(budget, max(prompt_budget, min(midway, self._midway_tokens)))
        self._num_reads += 1
        begun_first = self._num_reads % 4 != 0
        order = sorted(
            waiting, key=lambda s: (begun_first and not s.num_output, residents.missing(s))
        )
        if self._num_reads % 2:
            order = waiting[:1] + order
        pieces: list[tuple[TargetStream, Span | None]] = []
        # Each scored token needs a row of logits.
        scored_budget = PROMPT_PIECE_TOKENS
        for stream in order:
            if budget <= 0:
                break
            if any(stream is other for other, _ in pieces) or not residents.copy_known(stream):
                continue
            # After a copy nothing may be missing; then the stream has no span and is announced.
            start = residents.cached(stream)
            count = min(residents.missing(stream), budget)
            is_prompt = not stream.num_output
            if is_prompt:
                count = min(count, prompt_budget)
                if not count and residents.missing(stream):
                    continue
            num_outputs = 0
            if stream.scores_left:
                # A token that is only scored has itself as its score, even without alternatives.
                fitting = most_scores // max(1, stream.num_scores)
                count = min(count, scored_budget, fitting)
                # Tokens that were read before a parking have scores already.
                num_outputs = max(0, start + count - max(start, stream.next_score - 1))
                scored_budget -= count
                if not count:
                    continue
            prompt_budget -= count * is_prompt
            stream.num_read += count
            is_whole = count == residents.missing(stream) and not stream.scores_left
            has_room = count < budget and stream.num_scores <= score_budget
            if is_whole and has_room and stream.may_decode:
                # The pass that reads the last tokens also decodes the first token of the answer.
                score_budget -= stream.num_scores
                count, num_outputs = count + 1, 1
            span = None
            if count:
                token_ids = stream.token_ids[start : start + count]
                assert stream.seq_id is not None
                span = Span(stream.seq_id, start, token_ids, num_outputs)
                budget -= count
            pieces.append((stream, span))
        return pieces


def is_decoded(stream: TargetStream, span: Span) -> bool:
    """Whether a piece of a text includes its last token, so that the pass decodes the next one."""
    return span.start + len(span.token_ids) == len(stream.token_ids)


def num_read_tokens(stream: TargetStream, span: Span) -> int:
    """Returns the tokens of a piece that are only read: all, or all but a last one that decodes."""
    return len(span.token_ids) - is_decoded(stream, span)


def midway_tokens(decode: CostTable) -> int:
    """Returns how many tokens of begun answers a pass reads beside other streams.

    They are whole pieces, at least one, and take at most a quarter of a second by these costs.
    """
    pieces = _MOST_MIDWAY_PIECES
    while pieces > 1 and decode.at(pieces * PROMPT_PIECE_TOKENS) > _MIDWAY_PASS_S:
        pieces -= 1
    return pieces * PROMPT_PIECE_TOKENS


def num_scores_that_fit(tokenizer: Tokenizer, num_vocab: int) -> int:
    """Returns the scores of a pass that fit a message, whatever tokens they are of.

    All pieces are read for this, which takes up to a second for a large vocabulary.
    """
    longest = max(len(tokenizer.piece(token_id)) for token_id in range(num_vocab))
    # A score has up to 24 bytes besides the piece of its token.
    return MAX_SCORE_BYTES // (24 + longest)
