"""A toy whose sequences go back to kept states and no further, as those of recurrent models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from airdraft.nodes.engine.protocol import CacheFullError, Logits, SavedPrefix, Span, check_spans
from airdraft.nodes.engine.replay import Replay
from airdraft.nodes.engine.toy import ToyConfig
from tests.nodes.target.script import RecordingModel


class RecurrentToy(RecordingModel):
    """Its `passes` are those of the engine: with padding, and with tokens that it computes again.

    A cut to another length than that of the kept state is an error of Replay.
    """

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.info = replace(self.info, can_cut=False)
        self._replay = Replay(config.max_sequences)

    def forward(self, spans: Sequence[Span]) -> Logits:
        lengths = [self.length(seq_id) for seq_id in range(self.info.max_sequences)]
        check_spans(spans, self.info, lengths)
        passes = self._replay.passes(spans, self.info.max_batch_tokens, super().free_cells())
        rows: dict[int, Logits] = {}
        for part in passes:
            # Tokens at the end that are padding have rows in a toy, and nobody gets them.
            asked = [
                replace(s, num_outputs=s.num_outputs and s.num_outputs + s.num_padding)
                for s in part
            ]
            logits = super().forward(asked)
            for span, whole in zip(part, asked, strict=True):
                self._replay.ran(span)
                if span.num_outputs:
                    rows[span.seq_id] = logits[: span.num_outputs]
                logits = logits[whole.num_outputs :]
        for span in (span for part in passes for span in part):
            if span.num_padding:
                self.truncate(span.seq_id, span.start + len(span.token_ids) - span.num_padding)
        wanted = [rows[span.seq_id] for span in spans if span.num_outputs]
        empty = np.empty((0, self.info.num_vocab), dtype=np.float32)
        return np.concatenate(wanted) if wanted else empty

    def _in_engine(self, seq_id: int) -> int:
        return super().length(seq_id)

    def truncate(self, seq_id: int, length: int) -> None:
        if length < self.length(seq_id):
            super().truncate(seq_id, self._replay.cut(seq_id, length, self._in_engine(seq_id)))

    def length(self, seq_id: int) -> int:
        return super().length(seq_id) + self.num_pending(seq_id)

    def num_pending(self, seq_id: int) -> int:
        return len(self._replay.pending(seq_id)) if hasattr(self, "_replay") else 0

    def shortest(self, seq_id: int) -> int:
        return self._in_engine(seq_id)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert length >= self._in_engine(source)
        self._sequences[target] = self._sequences[source]
        self._replay.copied(source, target, length - self._in_engine(source))

    def save(self, seq_id: int) -> SavedPrefix:
        saved, pending = super().save(seq_id), tuple(self._replay.pending(seq_id))
        in_engine = self._in_engine(seq_id)
        return SavedPrefix(in_engine + len(pending), saved.state, in_engine, pending)

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        assert length >= saved.shortest
        super().restore(seq_id, SavedPrefix(saved.shortest, saved.state), saved.shortest)
        self._replay.restored(seq_id, saved.pending[: length - saved.shortest])

    def make_room(self, num_tokens: int) -> None:
        # Of the free cells as of the tokens those are counted that are computed again.
        num_free = super().free_cells()
        if num_tokens > num_free:
            raise CacheFullError(num_tokens, num_free, self.info.num_cells)

    def free_cells(self) -> int:
        return super().free_cells() - (self._replay.num_pending if hasattr(self, "_replay") else 0)
