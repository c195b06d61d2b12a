"""What emulated models have in common: sequences without a real cache, one cell for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from airdraft.nodes.engine.protocol import (
    CacheFullError,
    EngineInfo,
    InvalidInputError,
    SavedPrefix,
    Span,
    check_spans,
)


class EmulatedModel:
    """Implements the Model protocol except forward(). A sequence has a number for each token."""

    num_threads = 1
    # The type of the numbers in a saved prefix.
    saved_type: ClassVar[type[np.uint32 | np.uint64]]

    def __init__(self, info: EngineInfo) -> None:
        self.info = info
        self._sequences: list[tuple[int, ...]] = [()] * (info.max_sequences + info.num_branches)
        # What ran in branches since they were dropped. What they share takes no cells.
        self._branch_cells = 0

    def _check(self, spans: Sequence[Span]) -> None:
        """Raise what forward() raises for spans that cannot run."""
        lengths = [len(sequence) for sequence in self._sequences]
        self.make_room(check_spans(spans, self.info, lengths))
        in_branches = [span for span in spans if span.seq_id >= self.info.max_sequences]
        self._branch_cells += sum(len(span.token_ids) for span in in_branches)

    def truncate(self, seq_id: int, length: int) -> None:
        current = self.length(seq_id)
        if not 0 <= length <= current:
            raise InvalidInputError(f"sequence {seq_id}: cannot keep {length} of {current}")
        self._sequences[seq_id] = self._sequences[seq_id][:length]

    def num_pending(self, seq_id: int) -> int:
        return 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if not 0 < length <= self.length(source):
            raise InvalidInputError(f"sequence {source} has no {length} positions")
        num_known, copied = self.length(target), self._sequences[source][:length]
        is_branch = target >= self.info.max_sequences
        if not is_branch and self._sequences[target] != copied[:num_known]:
            raise InvalidInputError(f"sequence {target} is not empty")
        self._sequences[target] = copied

    def shortest(self, seq_id: int) -> int:
        return 0

    def save(self, seq_id: int) -> SavedPrefix:
        if not self.length(seq_id):
            raise InvalidInputError(f"sequence {seq_id} is empty")
        numbers = np.array(self._sequences[seq_id], dtype=self.saved_type)
        return SavedPrefix(len(numbers), numbers.view(np.uint8))

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if self.length(seq_id):
            raise InvalidInputError(f"sequence {seq_id} is not empty")
        if not 0 < length <= saved.length:
            raise InvalidInputError(f"{length} positions wanted, {saved.length} were saved")
        self.make_room(saved.length)
        self._sequences[seq_id] = tuple(saved.state.view(self.saved_type)[:length].tolist())

    def length(self, seq_id: int) -> int:
        if not 0 <= seq_id < len(self._sequences):
            raise InvalidInputError(f"sequence id {seq_id} out of range")
        return len(self._sequences[seq_id])

    def free_cells(self) -> int:
        kept = self._sequences[: self.info.max_sequences]
        return self.info.num_cells - sum(map(len, kept))

    def make_room(self, num_tokens: int) -> None:
        if self._branch_cells + num_tokens > self.free_cells():
            self._sequences[self.info.max_sequences :] = [()] * self.info.num_branches
            self._branch_cells = 0
        if num_tokens > self.free_cells():
            raise CacheFullError(num_tokens, self.free_cells(), self.info.num_cells)

    def compact(self) -> None:
        pass

    def metadata(self, key: str) -> str:
        return ""

    def close(self) -> None:
        self._sequences = [()] * len(self._sequences)
