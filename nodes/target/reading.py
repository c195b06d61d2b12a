"""Which pieces of waiting texts go into the next pass. Pure."""

from __future__ import annotations

from nodes.engine.protocol import Span
from nodes.target.residents import Residents
from nodes.target.stream import TargetStream
from nodes.worker.stream import PROMPT_PIECE_TOKENS

# Others may want to go on at any moment, and wait for the pass that is under way.
_PIECE_BETWEEN_PASSES = 32
# A row of logits for each token of a prompt that is scored: of all such prompts in a pass.
_SCORED_TOKENS = 32


class Reading:
    """Takes turns among the texts that wait. midway_tokens: of answers that have begun, read in
    one pass beside others."""

    def __init__(self, midway_tokens: int) -> None:
        self._midway_tokens = midway_tokens
        self._num_reads = 0

    def next_pieces(
        self,
        residents: Residents,
        budget: int,
        score_budget: int,
        *,
        is_beside_others: bool,
        has_others: bool,
    ) -> list[tuple[TargetStream, Span | None]]:
        """Pieces of waiting prompts, small ones where others decode, and whose they are.

        In turns the oldest prompt goes first and the one with the fewest tokens left: a short one
        does not wait for a long one, and any number of short ones take half of its pieces at most.
        Answers that have begun go before those that have not, but for every fourth time.
        """
        waiting = [stream for stream in residents.by_age() if residents.missing(stream)]
        if not waiting:
            return []
        prompt_budget = budget
        if is_beside_others:
            prompt_budget = PROMPT_PIECE_TOKENS
        elif has_others:
            prompt_budget = _PIECE_BETWEEN_PASSES
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
        scored_budget = _SCORED_TOKENS
        for stream in order:
            if budget <= 0:
                break
            reader = residents.to_read(stream)
            if reader.seq_id is None or any(reader is other for other, _ in pieces):
                continue
            # Nothing may be missing after a copy: then it is only announced.
            start = residents.cached(reader)
            count = min(residents.missing(reader), budget)
            is_prompt = not (stream.num_output and reader.num_output)
            if is_prompt:
                count = min(count, prompt_budget)
                if not count and residents.missing(reader):
                    continue
            num_outputs = 0
            if reader.scores_left:
                count = min(count, scored_budget)
                # Of what was read before it was parked, scores are known.
                num_outputs = max(0, start + count - max(start, reader.next_score - 1))
                scored_budget -= count
                if not count:
                    continue
            prompt_budget -= count * is_prompt
            reader.num_read += count
            is_whole = count == residents.missing(reader) and not reader.scores_left
            has_room = count < budget and reader.num_scores <= score_budget
            if is_whole and has_room and reader.may_decode:
                # Its first token is decoded in the pass that reads the last ones before it.
                score_budget -= reader.num_scores
                count, num_outputs = count + 1, 1
            span = None
            if count:
                token_ids = reader.token_ids[start : start + count]
                span = Span(reader.seq_id, start, token_ids, num_outputs)
                budget -= count
            pieces.append((reader, span))
        return pieces


def is_decoded(stream: TargetStream, span: Span) -> bool:
    """Whether a piece of a prompt goes as far as the token that the next one follows."""
    return span.start + len(span.token_ids) == len(stream.token_ids)


def num_prompt_tokens(stream: TargetStream, span: Span) -> int:
    """Of a piece, without the token that is there to be decoded."""
    return len(span.token_ids) - is_decoded(stream, span)
