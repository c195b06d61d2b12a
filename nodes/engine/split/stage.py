"""One stage of a split model: a libllama model of some blocks, which takes rows and gives rows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from airdraft.nodes.engine.kernels.library import rows_callback
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import load_model
from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Logits, Rows, Span

# The result of a block, as libllama's graphs name it.
_BLOCK_RESULT: Final = "l_out"
_BLOCK_RESULTS: Final = dict.fromkeys(("nemotron_h", "nemotron_h_moe"), "nemotron_h_block_out")
# llama.h: LLAMA_ROPE_TYPE_MROPE and LLAMA_ROPE_TYPE_IMROPE.
_ROPES_OF_PARTS: Final = (8, 40)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence that a pass runs; the sequence ends at `start` before."""

    seq_id: int
    start: int
    count: int


class _StageRows(ctypes.Structure):
    """As in library.cpp."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("rows", ctypes.c_void_p),
        ("room", ctypes.c_size_t),
        ("used", ctypes.c_size_t),
    )


class RowModel(LlamaModel):
    """A model that takes rows in place of tokens."""

    def __init__(self, config: LlamaConfig, *, model_hash: str) -> None:
        # Layers on a GPU were not tried.
        config = replace(config, gpu_layers=0)
        super().__init__(config, model_hash=model_hash)

    def _new_batch(self, size: int) -> PassBatch:
        width = int(self._llama.llama_model_n_embd(self._model))
        has_parts = self._llama.llama_model_rope_type(self._model) in _ROPES_OF_PARTS
        return PassBatch(self._llama, size, width, 4 if has_parts else 1)


class StageModel(RowModel):
    """A stage that is not the last one. It has no vocabulary, and its passes compute no logits."""

    def __init__(self, config: LlamaConfig, *, model_hash: str) -> None:
        """model_hash: Of the whole model. Raises EngineError."""
        super().__init__(config, model_hash=model_hash)
        self.width = self._batch.rows.shape[1]
        self._given = self._batch.rows[:0]
        # What is pending is known to the last stage alone. Of each sequence the length at which its
        # state was kept.
        self._replay = None
        self._kept: dict[int, int] = {}

    def _load(self, *, repack: bool, has_head: bool = False) -> None:
        self._model = load_model(self._path, gpu_layers=0, repack=repack)
        num_blocks = int(self._llama.llama_model_n_layer(self._model))
        width = int(self._llama.llama_model_n_embd(self._model))
        self._made = np.zeros((self.config.max_batch_tokens, width), np.float32)
        # libllama keeps its address, and the name is one of its fields.
        named = _BLOCK_RESULTS.get(self.metadata("general.architecture"), _BLOCK_RESULT)
        name = f"{named}-{num_blocks - 1}".encode()
        self._taken = _StageRows(name, self._made.ctypes.data, self._made.size, 0)

    def _context_params(self, num_cells: int) -> Any:
        if rows_callback() is None:
            raise EngineError(f"{self._path.name}: a stage needs the kernels, which are not built")
        params = super()._context_params(num_cells)
        params.cb_eval = ctypes.cast(rows_callback(), dict(type(params)._fields_)["cb_eval"])
        params.cb_eval_user_data = ctypes.addressof(self._taken)
        return params

    def _describe(self, model_hash: str | None, form: tuple[object, ...], **limits: Any) -> None:
        assert model_hash is not None
        self.info = EngineInfo(
            engine="llama.cpp",
            model=self._path.name,
            model_hash=model_hash,
            vocab_hash="",
            num_vocab=1,
            context_length=int(self._llama.llama_model_n_ctx_train(self._model)),
            eog_token_ids=frozenset(),
            exact=False,
            numerics_class=self._numerics_class(model_hash, form),
            **limits,
        )

    def run(self, pieces: Sequence[Piece], rows: Rows) -> Rows:
        """Run a pass; returns (tokens, width) rows, which the next pass overwrites.

        rows: (tokens, width) of all pieces one after the other. Raises InvalidInputError if a
        sequence does not end where its piece starts, and CacheFullError.
        """
        spans = [Span(each.seq_id, each.start, [0] * each.count, each.count) for each in pieces]
        if self.info.can_cut:
            self._given = rows
            self.forward(spans)
            return self._made[: len(rows)]
        # Recurrent layers need equally many tokens of each sequence at a time. libllama would
        # divide the pass, and give the rows in another order.
        made, starts = np.empty_like(rows), np.cumsum([0, *(each.count for each in pieces)])
        for count in sorted({each.count for each in pieces}):
            chosen = [place for place, each in enumerate(pieces) if each.count == count]
            places = np.concatenate([np.arange(starts[p], starts[p] + count) for p in chosen])
            self._given = rows[places]
            self.forward([spans[place] for place in chosen])
            made[places] = self._made[: len(places)]
        return made

    @property
    def keeps_states(self) -> bool:
        return self._takes_back

    def keep(self, seq_id: int) -> None:
        """Keep the recurrent state of a sequence, which goes back to it when it is cut."""
        if not self._takes_back:
            raise EngineError(f"{self._path.name} keeps no states")
        self._kept[seq_id] = self.length(seq_id)
        self._keep_state(seq_id)

    def tidy(self, num_tokens: int) -> None:
        """Compact the cache if that is necessary for so many tokens, or pays.

        A compaction keeps no more of a text than its last window and one state, so none should run
        before wrong guesses are cut.
        """
        super().make_room(num_tokens)

    def make_room(self, num_tokens: int) -> None:
        if not self._log.fits(num_tokens):
            super().make_room(num_tokens)

    def _cut_cells(self, seq_id: int, length: int) -> None:
        if length == 0:
            self._kept.pop(seq_id, None)
        elif self._takes_back and self._kept.get(seq_id) != length:
            raise EngineError(f"sequence {seq_id} has no state of {length} tokens")
        super()._cut_cells(seq_id, length)

    def _keepers(self, lengths: Sequence[int]) -> Sequence[int]:
        # A compaction may come between the keeping of a state and the pass that changes it.
        return [seq_id for seq_id, length in self._kept.items() if length <= lengths[seq_id]]

    def _run(self, spans: Sequence[Span]) -> Logits:
        # libllama leaves tokens without logits out of the last block.
        count = len(self._given)
        self._batch.rows[:count] = self._given
        self._taken.used = 0
        logits = super()._run(spans)
        if self._taken.used != count * self.width:
            raise EngineError(f"{self._path.name}: libllama gives no result of its last block")
        return logits

    def close(self) -> None:
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None
