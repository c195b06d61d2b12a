"""Decides which streams decode in a pass, and with which guesses.

On a model that several machines run, a pass goes through one machine after the other, and the next
pass of a stream needs its token. With two groups of streams one machine works for the first group
while the next one works for the second.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from airdraft.nodes.engine.protocol import EngineInfo, Logits, Span, Tokenizer
from airdraft.nodes.messages import MAX_GAMMA
from airdraft.nodes.target.guessing import Guessing, waiting_groups
from airdraft.nodes.target.prompt_reader import MAX_SCORE_BYTES, num_scores_that_fit
from airdraft.nodes.target.residents import Residents
from airdraft.nodes.target.stream import Chosen, TargetStream
from airdraft.nodes.worker.stream import StreamId

# Two groups are made if both take less than this share of the time of one pass. A smaller gain
# cannot be told from noise in measured tables.
_WORTHWHILE: Final = 0.9
# Passes under way: more would wait in front of the slowest machine.
_MOST: Final = 2


@runtime_checkable
class Pipelined(Protocol):
    """An engine of which several passes can be under way."""

    #: A larger pass goes through in pieces of so many tokens.
    piece_tokens: int

    @property
    def own_share(self) -> float:
        """The share of a pass's time that this machine works, of late; 0.0 while it is unknown."""

    def begin(self, spans: Sequence[Span]) -> None:
        """Let a pass begin. No sequence may be in two passes under way, nor be changed meanwhile.

        Raises what Sequences.forward() raises.
        """

    def finish(self) -> Logits:
        """Wait for the oldest pass; returns what Sequences.forward() returns."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A pass under way: its spans, and the stream and guesses of each."""

    spans: Sequence[Span]
    turns: Sequence[tuple[TargetStream, Chosen]]


class Groups:
    """The passes under way. engine: None for one that runs one pass at a time."""

    def __init__(self, engine: Pipelined | None) -> None:
        self._engine = engine
        self._flights = deque[Flight]()

    @property
    def most_tokens(self) -> int:
        """The most tokens of a pass of a group, with its guesses.

        The table says that pieces share their time, as those of a pass alone do. But the other
        group has that time, so there a guess in a second piece costs more than it is worth.
        """
        assert self._engine is not None
        return self._engine.piece_tokens

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def is_full(self) -> bool:
        return len(self._flights) == _MOST

    def has(self, stream: TargetStream) -> bool:
        """Whether a pass of a stream is under way."""
        return any(stream is other for flight in self._flights for other, _ in flight.turns)

    def next_of(
        self, decoding: Sequence[TargetStream], pass_s: Callable[[int], float]
    ) -> list[TargetStream]:
        """Returns the group whose pass begins now; [] if one pass for all streams is better.

        decoding: all streams that decode, those under way as well. pass_s: seconds of a pass by its
        tokens.
        """
        if self._engine is None or self._engine.own_share == 0.0 or len(decoding) < _MOST:
            return []
        size = -(-len(decoding) // _MOST)
        # The slowest machine works for one group after the other.
        slowest = max(self._engine.own_share, 1.0 - self._engine.own_share)
        if _MOST * slowest * pass_s(size) >= _WORTHWHILE * pass_s(len(decoding)):
            return []
        return [stream for stream in decoding if not self.has(stream)][:size]

    def begin(self, flight: Flight) -> None:
        assert self._engine is not None
        self._engine.begin(flight.spans)
        self._flights.append(flight)

    def finish(self) -> tuple[Flight, Logits]:
        """Wait for the oldest pass."""
        assert self._engine is not None
        return self._flights.popleft(), self._engine.finish()

    def clear(self) -> None:
        """Forget the passes, of which the engine knows nothing any more."""
        self._flights.clear()


class Choosing:
    """What a pass of decoding streams is made of.

    most_scores: the scores of a pass; fewer once a stream needs some, because the pieces count as
    well.
    """

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
        self, decoding: Sequence[TargetStream], most_tokens: float = math.inf
    ) -> tuple[list[Span], list[Chosen], int, int]:
        """Returns the spans of a pass and the guesses in them, and the tokens and scores for which
        it has room besides. most_tokens: of the pass, if it has guesses."""
        most = int(min(most_tokens, self._info.max_batch_tokens))
        budget = max(0, most - len(decoding))
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
