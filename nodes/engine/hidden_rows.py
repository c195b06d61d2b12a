"""Rows that a target's passes leave for its head: one for each token, before the output layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.llama_abi import calls_for_heads
from airdraft.nodes.engine.protocol import Span

Row: TypeAlias = npt.NDArray[np.float32]
# Of each sequence: a head reads a text soon, or without its beginning. A row of Qwen3.5-4B has
# 10 KB.
_MOST: Final = 1024


class HiddenRows:
    """The hidden rows of the target's last tokens, by sequence and position."""

    def __init__(self, llama: Any, model: Any, num_sequences: int) -> None:
        self._calls = calls_for_heads()
        self.zero: Row = np.zeros(int(llama.llama_model_n_embd_out(model)), dtype=np.float32)
        self._rows: list[dict[int, Row]] = [{} for _ in range(num_sequences)]

    def attach(self, context: Any, *, is_head: bool) -> None:
        """Have the passes of a context leave rows: all of a target, those with logits of a head."""
        self._calls.llama_set_embeddings_nextn(context, True, is_head)

    def rows_of(self, context: Any, count: int) -> Row:
        """Returns (count, width) rows of the last pass; the next one overwrites them."""
        pointer = self._calls.llama_get_embeddings_nextn(context)
        return np.ctypeslib.as_array(pointer, shape=(count, len(self.zero)))

    def keep(self, context: Any, spans: Sequence[Span]) -> None:
        """Keep the rows of the target's last pass."""
        made = self.rows_of(context, sum(len(span.token_ids) for span in spans)).copy()
        row = 0
        for span in spans:
            known = self._rows[span.seq_id]
            for place in range(len(span.token_ids)):
                known[span.start + place] = made[row + place]
            row += len(span.token_ids)
            while len(known) > _MOST:
                del known[next(iter(known))]

    def row(self, seq_id: int, position: int, other: Row | None = None) -> Row | None:
        """Returns the row of a token, or the other one if it has none."""
        return self._rows[seq_id].get(position, other)

    def cut(self, seq_id: int, length: int) -> None:
        """Forget the rows of the positions from `length` on."""
        known = self._rows[seq_id]
        while known and (last := next(reversed(known))) >= length:
            del known[last]
