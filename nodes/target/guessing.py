"""The guesses of a target's passes: who makes them, and which of them a pass takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from nodes.engine.protocol import Model, Span
from nodes.messages import MAX_GAMMA, MAX_TOP_LOGPROBS
from nodes.target.composing import best_of, compose
from nodes.target.lookup import Lookup
from nodes.target.proposals import Proposer
from nodes.target.residents import Residents
from nodes.target.stream import NOTHING, Chosen, TargetStream
from nodes.target.turns import Turns
from nodes.worker.stream import PROMPT_PIECE_TOKENS, StreamId, StreamSpec
from policies.latency import CostTable, TableRefit


class Guessing:
    """Chooses guesses by the costs of passes, which it corrects by their times.

    turns: guesses with a draft model of this process, or None.
    """

    def __init__(
        self, model: Model, residents: Residents, decode: CostTable, turns: Turns | None
    ) -> None:
        self._model = model
        self._residents = residents
        self._costs = TableRefit(decode)
        self._turns = turns
        self._proposers: list[Proposer] = [Lookup(), *([turns] if turns is not None else [])]
        # Whether the last step was one of the draft model in this process.
        self._is_turn = False
        # Tokens, used cells and own cells of the last pass; None if it read prompts, because then
        # its time is not used for the table.
        self._last_pass: tuple[int, int, float] | None = None

    @property
    def turn_s(self) -> float:
        """Seconds of the draft's steps since the last pass."""
        return self._turns.turn_s if self._turns is not None else 0.0

    def open(self, spec: StreamSpec) -> None:
        for proposer in self._proposers:
            proposer.open(spec)

    def committed(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        for proposer in self._proposers:
            proposer.committed(stream_id, token_ids)

    def ended(self, stream_id: StreamId) -> None:
        for proposer in self._proposers:
            proposer.ended(stream_id)

    def clear(self) -> None:
        for proposer in self._proposers:
            proposer.clear()

    def take_turn(self, decoding: Sequence[TargetStream]) -> bool:
        """Run a step of the draft model in this process if one pays before the pass of these
        streams; returns whether one has run."""
        if self._turns is None or not decoding:
            return False
        waiting, num_read = self._waiting()
        own_cells = sum(len(stream.token_ids) for stream in decoding) / len(decoding)
        others = [proposer for proposer in self._proposers if proposer is not self._turns]
        self._is_turn = self._turns.step(
            decoding,
            lambda stream: best_of(stream, others, MAX_GAMMA)[1],
            partial(self._costs.table.at, used_cells=self._used_cells, own_cells=own_cells),
            num_others=len(waiting),
            most=self._room(self._model.info.max_batch_tokens - len(decoding) - num_read),
        )
        return self._is_turn

    def choose(
        self, decoding: Sequence[TargetStream], budget: int, score_budget: int
    ) -> list[Chosen]:
        """Returns the guesses of each stream for the pass.

        They leave room for a piece of a waiting text, so that none waits for guesses to become
        fewer.
        """
        if not any(stream.buffer.token_ids or stream.spec.num_guesses for stream in decoding):
            return [NOTHING] * len(decoding)
        waiting, num_read = self._waiting()
        return compose(
            decoding,
            waiting,
            self._costs.table,
            self._proposers,
            num_read=num_read,
            used_cells=self._used_cells,
            room=self._room(min(budget - num_read, score_budget // (MAX_TOP_LOGPROBS + 1))),
        )

    def _waiting(self) -> tuple[list[TargetStream], int]:
        """Returns the streams whose texts are being read, and how much of them a pass reads."""
        waiting = [stream for stream in self._residents if self._residents.missing(stream)]
        return waiting, min(sum(map(self._residents.missing, waiting)), PROMPT_PIECE_TOKENS)

    def _room(self, most: int) -> int:
        """Returns how many guesses fit in a pass: they take free cells only, so that no stream is
        parked for them. A text whose last piece is read may also decode its first token."""
        return max(0, min(-self._residents.shortage(), most))

    @property
    def _used_cells(self) -> int:
        return self._model.info.num_cells - self._model.free_cells()

    def begin(self, spans: Sequence[Span], num_read: int) -> None:
        """Note what the next pass runs. num_read: tokens of prompts in it."""
        num_tokens = sum(len(span.token_ids) for span in spans)
        self._last_pass = None
        if num_tokens and not num_read:
            own = sum(span.start * len(span.token_ids) for span in spans)
            self._last_pass = num_tokens, self._used_cells, own / num_tokens

    def passed(self, seconds: float, committed: Mapping[StreamId, int]) -> bool:
        """Learn from the seconds of the last step; returns whether it was a pass.

        committed: tokens that the pass committed, by stream.
        """
        if self._turns is not None and self._is_turn:
            self._is_turn = False
            self._turns.stepped(seconds)
            return False
        tokens, plain_s, num = 0.0, 0.0, len(committed)
        if self._last_pass is not None:
            num_tokens, used_cells, own_cells = self._last_pass
            self._costs.observe(num_tokens, seconds, used_cells, own_cells)
            if num:
                plain_s = self._costs.table.at(num, used_cells, own_cells)
                tokens = sum(committed.values()) / num
        if self._turns is not None:
            self._turns.passed(seconds, tokens, plain_s)
        return True
