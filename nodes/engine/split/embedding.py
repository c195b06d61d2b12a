"""The rows of tokens that the first stage of a split model reads."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airdraft.nodes.engine.llama_abi import dequantizer
from airdraft.nodes.engine.protocol import Rows


@dataclass(frozen=True, slots=True)
class Table:
    """A matrix in a file: its offset, its type as ggml numbers it, and its shape.

    row_bytes: The bytes of a row.
    """

    path: Path
    offset: int
    type: int
    width: int
    num_rows: int
    row_bytes: int


class Embedding:
    """Reads rows in place, and converts them as libllama does, so that they have the same bits."""

    def __init__(self, table: Table) -> None:
        """Raises OSError, or EngineError for a type that this build does not know."""
        self._table = table
        with table.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._first = np.frombuffer(self._map, np.uint8).ctypes.data + table.offset
        self._convert = dequantizer(table.type)

    def rows_of(self, token_ids: Iterable[int]) -> Rows:
        """Returns (tokens, width) rows. Token ids must be in the vocabulary."""
        table, ids = self._table, list(token_ids)
        rows = np.empty((len(ids), table.width), np.float32)
        for row, token_id in zip(rows, ids, strict=True):
            assert 0 <= token_id < table.num_rows
            source = self._first + token_id * table.row_bytes
            self._convert(source, row.ctypes.data, table.width)
        return rows
