"""Decides which streams decode in a pass, and with which guesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airdraft.nodes.engine.protocol import EngineInfo, Span, Tokenizer
from airdraft.nodes.messages import MAX_GAMMA
from airdraft.nodes.target.guessing import Guessing, waiting_groups
from airdraft.nodes.target.prompt_reader import MAX_SCORE_BYTES, num_scores_that_fit
from airdraft.nodes.target.residents import Residents
from airdraft.nodes.target.stream import Chosen, TargetStream
from airdraft.nodes.worker.stream import StreamId


class Choosing:
    """most_scores: the scores of a pass; fewer once a stream needs some, because the pieces count
    as well."""

    def __init__(
        self,
        info: EngineInfo,
        streams: Mapping[StreamId, TargetStream],
        residents: Residents,
        guessing: Guessing,
    ) -> None:
        """info: of the model. streams: all that are open, those first that decode first."""
        self._info, self._streams = info, streams
        self._residents, self._guessing = residents, guessing
        self.most_scores = MAX_SCORE_BYTES

    def limit_scores(self, tokenizer: Tokenizer) -> None:
        """From now on the pieces of scores count: a stream has asked for some."""
        if self.most_scores == MAX_SCORE_BYTES:
            self.most_scores = num_scores_that_fit(tokenizer, self._info.num_vocab)

    def decoding(self, now: float) -> tuple[list[TargetStream], bool]:
        """Returns the streams that decode in a pass, and whether it has no room for others."""
        able = [s for s in self._streams.values() if s.may_decode and self._residents.has_all(s)]
        waiting = waiting_groups(able, now)
        ready = [s for s in able if s.hold is None or s.hold.group not in waiting]
        decoding: list[TargetStream] = []
        num_scores = 0
        for stream in ready:
            num_scores += stream.num_scores
            is_full = len(decoding) == self._info.max_batch_tokens
            if is_full or num_scores > self.most_scores:
                return decoding, True
            decoding.append(stream)
        return decoding, False

    def spans_of(
        self, decoding: Sequence[TargetStream]
    ) -> tuple[list[Span], list[Chosen], int, int]:
        """Returns the spans of a pass and the guesses in them, and the tokens and scores for which
        it has room besides."""
        budget = self._info.max_batch_tokens - len(decoding)
        score_budget = self.most_scores - sum(stream.num_scores for stream in decoding)
        spans: list[Span] = []
        guesses = self._guessing.choose(decoding, budget, score_budget)
        for stream, chosen in zip(decoding, guesses, strict=True):
            assert stream.seq_id is not None
            token_ids = [stream.token_ids[-1], *chosen.token_ids]
            start, count = len(stream.token_ids) - 1, len(token_ids)
            spans.append(Span(stream.seq_id, start, token_ids, count, keeps=True))
            stream.sampler.ask(chosen.token_ids)
            budget -= len(chosen.token_ids)
            score_budget -= len(chosen.token_ids) * stream.num_scores
        return spans, guesses, budget, score_budget

    def is_calm(self, decoding: Sequence[TargetStream]) -> bool:
        """Whether all streams decode, and nothing has to be read, parked or made room for."""
        return (
            len(decoding) == len(self._streams)
            and all(stream.announced for stream in decoding)
            and self._residents.next_parked() is None
            and self._residents.shortage() <= -len(decoding) * (1 + MAX_GAMMA)
        )
