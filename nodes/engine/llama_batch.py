"""The input of a pass in libllama's form.

This code runs between two passes, when the last one has displaced it from the CPU's caches. A step
of a small model takes some milliseconds, so tens of microseconds count.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from airdraft.nodes.engine.protocol import Span


class PassBatch:
    """A `llama_batch` of at most `size` tokens, each of which belongs to one sequence.

    width: Columns of `rows`, which stand for tokens in a stage of a split model; 0 for tokens.
    num_positions: Of each row: 4 for models whose positions have as many parts, of which libllama
    makes those of tokens, but not those of rows.
    """

    def __init__(self, llama: Any, size: int, width: int = 0, num_positions: int = 1) -> None:
        self.rows = np.zeros((size, width), dtype=np.float32)
        # Filling ctypes arrays element by element takes 30 times as long as numpy's.
        self._tokens = np.zeros(size, dtype=np.int32)
        self._num_positions = num_positions
        self._positions = np.zeros(num_positions * size, dtype=np.int32)
        self._seq_ids = np.zeros(size, dtype=np.int32)
        self._outputs = np.zeros(size, dtype=np.int8)
        self._seq_counts = np.ones(size, dtype=np.int32)
        addresses = self._seq_ids.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self._seq_pointers = np.ascontiguousarray(addresses)
        integers = ctypes.POINTER(ctypes.c_int32)
        self.native = llama.llama_batch(
            n_tokens=0,
            token=None if width else self._tokens.ctypes.data_as(integers),
            embd=self.rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if width else None,
            pos=self._positions.ctypes.data_as(integers),
            n_seq_id=self._seq_counts.ctypes.data_as(integers),
            seq_id=self._seq_pointers.ctypes.data_as(ctypes.POINTER(integers)),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, spans: Sequence[Span]) -> int:
        """Fill the batch with spans; returns the number of output rows."""
        tokens: list[int] = []
        positions: list[int] = []
        seq_ids: list[int] = []
        outputs: list[int] = []
        rows = 0
        for span in spans:
            count = len(span.token_ids)
            tokens += span.token_ids
            positions += range(span.start, span.start + count)
            seq_ids += [span.seq_id] * count
            before = count - span.num_outputs - span.num_padding
            outputs += [0] * before + [1] * span.num_outputs + [0] * span.num_padding
            rows += span.num_outputs
        # One assignment for all spans: most of its cost does not depend on the number of elements.
        end = len(tokens)
        self._tokens[:end] = tokens
        self._positions[:end] = positions
        if self._num_positions > 1:
            # As libllama has them for text: all parts alike, but the last one.
            count = end * (self._num_positions - 1)
            self._positions[end:count] = positions * (self._num_positions - 2)
            self._positions[count : count + end] = 0
        self._seq_ids[:end] = seq_ids
        self._outputs[:end] = outputs
        self.native.n_tokens = end
        return rows
