"""A model whose sequences have a KV cache of their own each, for long steps of all at once.

In the mesh's unified cache every query reads past the cells of all others; at 16 sequences of 150
tokens that costs twice as much as the weights. Partitioned, a pass is only quick when it takes one
token of each of the sequences 0, 1, ... n, which is what sampling does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nodes.engine.cells import CellLog
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import CacheFullError, InvalidInputError


@dataclass(slots=True)
class _StreamLog(CellLog):
    """Lengths only: a stream has no neighbours, so what is cut off is free again."""

    def fits(self, count: int) -> bool:
        # Which stream the tokens are for is not known here: the fullest one decides.
        return max(self.lengths) + count <= self.total // self.max_sequences

    def should_compact(self) -> bool:
        return False

    def append(self, seq_id: int, count: int) -> None:
        self.lengths[seq_id] += count

    def truncate(self, seq_id: int, length: int) -> bool:
        self.lengths[seq_id] = length
        return True

    def share(self, source: int, target: int, length: int) -> None:
        self.lengths[target] = length


class StreamedModel(LlamaModel):
    """LlamaModel with partitioned memory; `num_cells` are shared out equally."""

    def __init__(self, config: LlamaConfig, *, model_hash: str | None = None) -> None:
        super().__init__(config, model_hash=model_hash)
        self._log = _StreamLog(self.info.num_cells, config.max_sequences)

    def _context_params(self) -> Any:
        params = super()._context_params()
        params.kv_unified = False
        params.n_seq_max = self.config.max_sequences
        return params

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if self.length(target) != 0:
            raise InvalidInputError(f"sequence {target} is not empty")
        # libllama ends the process on a part of a sequence.
        if length != self.length(source):
            raise InvalidInputError(f"only the whole of sequence {source} can be copied")
        self._llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._log.share(source, target, length)

    def _compact(self, wanted: int) -> None:
        raise CacheFullError(wanted, 0, self._log.total)
