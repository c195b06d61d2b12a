"""A target's own head for the tokens after the next one (nextn, MTP), as a draft model.

The head is a layer of the target's file. For a token it also reads the target's *hidden row* of the
token before, which the target's passes leave in HiddenRows; for its own guesses it goes on with the
rows that it has computed itself. It has a context and a cache of its own, of attention alone, so
its sequences can be cut at will. What it guesses changes no bit of the target.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from airdraft.nodes.engine.hidden_rows import Row
from airdraft.nodes.engine.kernels.library import limit_output
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import library, take_last_error
from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.protocol import (
    CacheFullError,
    EngineError,
    InvalidInputError,
    Logits,
    Span,
    check_spans,
)
from airdraft.nodes.engine.states import read_states, saved_states


class HeadModel:
    """Implements Sequences. A token whose hidden row is not known takes a position, but no pass.

    So a head that is attached in the middle of a text guesses without what was before. The model
    must have been opened with its head. Raises EngineError.
    """

    def __init__(self, model: LlamaModel) -> None:
        if model.hidden is None:
            raise EngineError(f"{model.info.model} has no head")
        self._target, self._hidden = model, model.hidden
        self._llama = llama = library()
        self._open(model.config.first_cells)
        self._batch = PassBatch(llama, model.info.max_batch_tokens)
        self.info = replace(model.info, can_cut=True, can_take_back=True, num_snapshots=0)
        num = self.info.max_sequences
        self._lengths = [0] * num
        # The target's sequence of each of its own, and the rows of its own guesses by position.
        self._of_target: list[int | None] = [None] * num
        self._own: list[dict[int, Row]] = [{} for _ in range(num)]
        self._num_output_tokens = 0

    def _open(self, num_cells: int) -> None:
        self._context = self._target.head_context(min(num_cells, self._target.info.num_cells))
        self._hidden.attach(self._context, is_head=True)
        self._memory = self._llama.llama_get_memory(self._context)

    @property
    def num_threads(self) -> int:
        return self._target.num_threads

    def metadata(self, key: str) -> str:
        return ""

    def compact(self) -> None:
        pass

    def follow(self, seq_id: int, target_seq_id: int) -> None:
        """Use the hidden rows of a sequence of the target from now on."""
        self._of_target[seq_id] = target_seq_id

    def limit_output(self, num_tokens: int) -> None:
        """Compute the first num_tokens logits only; 0 for all."""
        self._num_output_tokens = num_tokens

    def forward(self, spans: Sequence[Span]) -> Logits:
        num_tokens = check_spans(spans, self.info, self._lengths)
        if num_tokens > self.free_cells():
            raise CacheFullError(num_tokens, self.free_cells(), self.info.num_cells)
        num_cells = self._llama.llama_n_ctx(self._context)
        if sum(self._lengths) + num_tokens > num_cells:
            states = saved_states(self._llama, self._context, self._lengths)
            self._free()
            self._open(2 * num_cells)
            read_states(self._llama, self._context, states)
        ran, rows = list[Span](), list[Row]()
        for span in spans:
            known = [self._row(span.seq_id, span.start + n - 1) for n in range(len(span.token_ids))]
            # Rows are missing at the beginning of a text, and what guesses are made from needs one.
            first = next((n for n, row in enumerate(known) if row is not None), len(known))
            first = min(first, len(known) - span.num_outputs)
            if self._of_target[span.seq_id] is None:
                first = 0
            if first < len(known):
                token_ids = span.token_ids[first:]
                ran.append(Span(span.seq_id, span.start + first, token_ids, span.num_outputs))
                rows += (self._hidden.zero if row is None else row for row in known[first:])
        logits = self._run(ran, rows) if ran else np.empty((0, self.info.num_vocab), np.float32)
        for span in spans:
            self._lengths[span.seq_id] += len(span.token_ids)
        return logits

    def _run(self, spans: Sequence[Span], rows: Sequence[Row]) -> Logits:
        """Run spans with the hidden rows of the tokens before theirs, and keep the rows of those
        with outputs."""
        num_outputs = self._batch.fill(spans)
        hidden = np.stack(rows)
        # A batch of both tokens and rows is what a head reads.
        self._batch.native.embd = hidden.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        limit_output(self._num_output_tokens)
        if self._llama.llama_decode(self._context, self._batch.native) != 0:
            raise EngineError(f"a pass of the head failed: {take_last_error()}")
        if not num_outputs:
            return np.empty((0, self.info.num_vocab), dtype=np.float32)
        made = iter(self._hidden.rows_of(self._context, num_outputs).copy())
        for span in spans:
            end = span.start + len(span.token_ids)
            for position in range(end - span.num_outputs, end):
                self._own[span.seq_id][position] = next(made)
        pointer = self._llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(num_outputs, self.info.num_vocab))

    def _row(self, seq_id: int, position: int) -> Row | None:
        """Returns the hidden row of the token at a position, the target's if it has one."""
        target_seq_id = self._of_target[seq_id]
        row = self._own[seq_id].get(position)
        return row if target_seq_id is None else self._hidden.row(target_seq_id, position, row)

    def truncate(self, seq_id: int, length: int) -> None:
        current = self.length(seq_id)
        if not 0 <= length <= current:
            raise InvalidInputError(f"sequence {seq_id}: cannot keep {length} of {current}")
        if length < current:
            self._llama.llama_memory_seq_rm(self._memory, seq_id, length or -1, -1)
            self._lengths[seq_id] = length
        own = self._own[seq_id]
        for position in [position for position in own if position >= length]:
            del own[position]
        if length == 0:
            self._of_target[seq_id] = None

    def num_pending(self, seq_id: int) -> int:
        return 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._lengths[target] = length

    def shortest(self, seq_id: int) -> int:
        return 0

    def length(self, seq_id: int) -> int:
        return self._lengths[seq_id]

    def free_cells(self) -> int:
        return self.info.num_cells - sum(self._lengths)

    def make_room(self, num_tokens: int) -> None:
        pass

    def close(self) -> None:
        self._target.hidden = None
        self._free()

    def _free(self) -> None:
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
