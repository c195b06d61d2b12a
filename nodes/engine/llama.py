"""Implements the Model protocol with llama.cpp: one context, many sequences, a log of cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from airdraft.nodes.engine.cells import QUERIES_PER_CELL, QUERIES_PER_SKIPPED_CELL, CellLog
from airdraft.nodes.engine.cores import FreeCores
from airdraft.nodes.engine.diagnosis import first_difference
from airdraft.nodes.engine.hidden_rows import HiddenRows
from airdraft.nodes.engine.kept_states import KeptStates, have_room, pointer_to, state_size
from airdraft.nodes.engine.kernels.library import left_attention, limit_output
from airdraft.nodes.engine.llama_abi import check_kind, kernels, take_last_error
from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.llama_context import LlamaConfig, LlamaContext
from airdraft.nodes.engine.protocol import (
    Bytes,
    CacheFullError,
    EngineError,
    InvalidInputError,
    Logits,
    SavedPrefix,
    Span,
    check_spans,
)
from airdraft.nodes.engine.replay import Replay

logger = logging.getLogger(__name__)

# From 64 queries of one stream in a pass ggml's own attention uses another kernel, which computes
# other bits.
_EXACT_MICRO_BATCH = 32
_MICRO_BATCH = 512
# The types of keys and values: ggml's number of F16.
_CACHE_TYPES = 1, 1
# libllama ends the process if a part of a sequence of DeepSeek V4 is copied.
_ONE_STATE_ONLY = "deepseek4"
# llama.h: LLAMA_CONTEXT_TYPE_MTP.
_HEAD_CONTEXT = 1


class LlamaModel(LlamaContext):
    """Implements the Model protocol with a model that computes text."""

    def __init__(self, config: LlamaConfig, *, model_hash: str | None = None) -> None:
        super().__init__(config.path, config.gpu_layers)
        self.config = config
        found = kernels(keeps_others=config.profile == "fast")
        self._has_products = config.repack and not found.missing and not self._gpu_layers
        # Our products and attention give the same bits for any batch and number of threads.
        self.has_kernels = self._has_products
        self._load(repack=config.repack, has_head=config.has_head)
        # Whether sequences have a second state, so that guesses can be taken back with the first.
        self._takes_back = False
        try:
            check_kind(self._model, self._path.name)
            self._open_context()
        except BaseException:
            self.close()
            raise
        self._describe(
            model_hash,
            (config.profile, self._has_products, self._gpu_layers, _CACHE_TYPES),
            num_cells=int(self._llama.llama_n_ctx(self._context)),
            max_sequences=config.max_sequences,
            max_batch_tokens=min(
                config.max_batch_tokens, int(self._llama.llama_n_batch(self._context))
            ),
            can_cut=self._can_cut,
            can_take_back=self._can_cut or self._takes_back or config.num_snapshots > 0,
            num_snapshots=config.num_snapshots,
        )
        # Of a sequence in its saved state llama.cpp leaves out what lies before the last window.
        self._window = self._llama.llama_model_n_swa(self._model) or self.info.num_cells
        self._shortest = [0] * config.max_sequences
        per_cell = QUERIES_PER_SKIPPED_CELL if self.has_kernels else QUERIES_PER_CELL
        is_hybrid = self._llama.llama_model_is_hybrid(self._model)
        most = int(self._llama.llama_n_ubatch(self._context)) if is_hybrid else 0
        self._log = CellLog(self.info.num_cells, config.max_sequences, per_cell, most)
        # This sequence is the graveyard: its cells stay occupied, and no query reads them.
        self._graveyard = config.max_sequences
        self._replay = Replay(config.max_sequences) if self._takes_back else None
        self._states = KeptStates(self._llama, self._context, config.max_sequences + 1)
        self._batch = PassBatch(self._llama, config.max_batch_tokens)
        self._free_cores = FreeCores(config.num_threads) if config.num_threads > 1 else None
        # Passes compute the logits of this many first tokens of the vocabulary; 0 for all of them.
        self._num_output_tokens = 0
        # What passes leave for its head, if it has one. A closed head, on its thread, sets None.
        self.hidden: HiddenRows | None = None
        if config.has_head and self._llama.llama_model_n_layer_nextn(self._model) > 0:
            self.hidden = HiddenRows(self._llama, self._model, config.max_sequences)
            self.hidden.attach(self._context, is_head=False)

    def head_context(self) -> Any:
        """Returns a context of its own for the head. Raises EngineError."""
        params = self._context_params()
        params.ctx_type = _HEAD_CONTEXT
        params.n_rs_seq = 0
        params.n_seq_max = self.config.max_sequences
        return self._new_context(params)

    def _context_params(self) -> Any:
        config = self.config
        params = self._llama.llama_context_default_params()
        params.n_ctx = config.num_cells
        params.n_batch = config.max_batch_tokens
        params.n_ubatch = _EXACT_MICRO_BATCH if self._restricts_ggml else _MICRO_BATCH
        params.n_seq_max = config.max_sequences + 1
        if self._takes_back:
            params.n_seq_max += config.max_sequences
        params.n_threads, params.n_threads_batch = self._thread_counts(config.num_threads)
        params.flash_attn_type = 1
        params.type_k, params.type_v = _CACHE_TYPES
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        return params

    def _open_context(self) -> None:
        self._open(self._context_params())
        self._memory = self._llama.llama_get_memory(self._context)
        left_attention()
        self._can_cut, state_bytes = self._probe()
        # ggml computes the attention of some models, for which the limits of its kernels hold.
        is_ggmls = self.has_kernels and left_attention()
        takes_back = self._may_keep_states(state_bytes)
        if is_ggmls or takes_back != self._takes_back:
            self.has_kernels &= not is_ggmls
            self._takes_back = takes_back
            self._llama.llama_free(self._context)
            self._open_context()

    def _may_keep_states(self, state_bytes: int) -> bool:
        """Whether sequences can have a second state. state_bytes: the size of one."""
        llama, model, config = self._llama, self._model, self.config
        if self._takes_back or not config.takes_back:
            return self._takes_back
        has_states = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        if not has_states or self.metadata("general.architecture") == _ONE_STATE_ONLY:
            return False
        return have_room(config.max_sequences, state_bytes)

    @property
    def _restricts_ggml(self) -> bool:
        """Whether ggml's own kernels must be kept from changing the order of their sums."""
        return self.config.profile == "exact" and not self.has_kernels

    def _thread_counts(self, num_threads: int) -> tuple[int, int]:
        """Returns the threads for passes of one token and for other passes."""
        # For a single query ggml's attention divides the keys between threads and joins their
        # results, so the bits depend on the number of threads.
        return (1 if self._restricts_ggml else num_threads), num_threads

    def _probe(self) -> tuple[bool, int]:
        """Returns whether the last position of a sequence can be removed, which recurrent models
        cannot do, and the bytes of a sequence's state."""
        batch = PassBatch(self._llama, 2)
        batch.fill([Span(0, 0, (0, 0))])
        if self._llama.llama_decode(self._context, batch.native) != 0:
            raise EngineError(f"{self._path.name} cannot run two tokens: {take_last_error()}")
        state_bytes = state_size(self._llama, self._context, 0)
        removed = bool(self._llama.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self._llama.llama_memory_clear(self._memory, True)
        return removed, state_bytes

    def set_tested(self, *, exact: bool, digest: str, software: str = "") -> None:
        """Record the result of the self-test; to be called once.

        digest: The digest of the bits that the self-test saw. It is part of the numerics class, as
        builds of one name may compute different bits. software: The digest of all other software
        that a text depends on.
        """
        numerics = self.info.numerics_class
        if digest or software:
            numerics = f"{numerics} {digest} {software}"
            numerics = hashlib.sha256(numerics.encode()).hexdigest()[:16]
        self.info = replace(self.info, exact=exact, numerics_class=numerics)

    def forward(self, spans: Sequence[Span]) -> Logits:
        log, replay = self._log, self._replay
        lengths = log.lengths
        if replay is None:
            num_tokens = check_spans(spans, self.info, lengths)
            self._make_room(num_tokens)
            return self._run(spans)
        known = [n + len(replay.pending(seq_id)) for seq_id, n in enumerate(lengths)]
        check_spans(spans, self.info, known)
        passes = replay.passes(spans, self.info.max_batch_tokens, log.total - log.live)
        logits = self._run_all(spans, passes)
        # From the end of the log on, so that cells become free again.
        for span in (span for part in reversed(passes) for span in reversed(part)):
            if span.num_padding:
                self.truncate(span.seq_id, span.start + len(span.token_ids) - span.num_padding)
        return logits

    def _run_all(self, spans: Sequence[Span], passes: Sequence[Sequence[Span]]) -> Logits:
        """Run passes one after the other; returns their logits in the order of the spans."""
        self._make_room(sum(len(span.token_ids) for part in passes for span in part))
        rows: dict[int, Logits] = {}
        logits = np.empty((0, self.info.num_vocab), dtype=np.float32)
        for part in passes:
            # The next pass overwrites the logits of this one.
            rows = {seq_id: found.copy() for seq_id, found in rows.items()}
            if self._replay is not None:
                for span in part:
                    if span.keeps:
                        self._states.keep(span.seq_id)
            logits, place = self._run(part), 0
            for span in part:
                if self._replay is not None:
                    self._replay.ran(span)
                if span.num_outputs:
                    rows[span.seq_id] = logits[place : place + span.num_outputs]
                    place += span.num_outputs
        wanted = [span.seq_id for span in spans if span.num_outputs]
        if len(logits) == sum(map(len, rows.values())) and list(rows) == wanted:
            return logits
        return np.concatenate([rows[seq_id] for seq_id in wanted])

    def _make_room(self, num_tokens: int) -> None:
        """Compact the cache if that is necessary or pays. Raises CacheFullError."""
        log = self._log
        # A compaction ends the sharing of cells, so the result may need more of them. One that is
        # not necessary runs only if the result fits.
        if not log.fits(num_tokens) or (
            log.should_compact() and log.live + num_tokens <= log.total
        ):
            self._compact(num_tokens)

    def _run(self, spans: Sequence[Span]) -> Logits:
        """Run spans that begin where the cells of their sequences end."""
        log = self._log
        rows = self._batch.fill(spans)
        log.read(sum(len(span.token_ids) for span in spans))
        if self._free_cores is not None and self._free_cores.changed():
            self.set_threads(self._free_cores.num_threads)
        # The limit is one of the process, which may run a second model.
        limit_output(self._num_output_tokens)
        code = self._llama.llama_decode(self._context, self._batch.native)
        if code != 0:
            raise EngineError(f"llama_decode failed with {code}: {take_last_error()}")
        log.append_pass((span.seq_id, len(span.token_ids)) for span in spans)
        if (hidden := self.hidden) is not None:
            hidden.keep(self._context, spans)
        if rows == 0:
            return np.empty((0, self.info.num_vocab), dtype=np.float32)
        # They lie in libllama's own memory, which moves when a pass has more rows than any before.
        pointer = self._llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.info.num_vocab))

    def truncate(self, seq_id: int, length: int) -> None:
        current = self.length(seq_id)
        if not 0 <= length <= current:
            raise InvalidInputError(f"sequence {seq_id}: cannot keep {length} of {current}")
        if length == current:
            return
        if (hidden := self.hidden) is not None:
            hidden.cut(seq_id, length)
        if length == 0:
            self._shortest[seq_id] = 0
        elif not self.info.can_take_back:
            raise InvalidInputError(f"{self.info.model} cannot cut a sequence")
        self._cut(seq_id, length)

    def _cut(self, seq_id: int, length: int) -> None:
        """Cut a sequence, which has more than `length` positions."""
        if self._replay is not None:
            length = self._replay.cut(seq_id, length, self._log.length(seq_id))
        if length == self._log.length(seq_id):
            return
        llama, memory = self._llama, self._memory
        if not self._log.truncate(seq_id, length):
            llama.llama_memory_seq_cp(memory, seq_id, self._graveyard, length, -1)
        if length and self._replay is not None:
            self._states.put_back(seq_id)
        if not llama.llama_memory_seq_rm(memory, seq_id, length or -1, -1):
            raise EngineError(f"sequence {seq_id} could not be cut to {length}")
        if self._log.live == 0:
            llama.llama_memory_clear(memory, False)
            self._log.compacted()

    def num_pending(self, seq_id: int) -> int:
        return len(self._replay.pending(seq_id)) if self._replay is not None else 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if self.length(target) != 0:
            raise InvalidInputError(f"sequence {target} is not empty")
        if not 0 < length <= self.length(source) or length < self.shortest(source):
            raise InvalidInputError(f"sequence {source} cannot be copied up to {length}")
        num_cells = self._log.length(source)
        # DeepSeek V4 ends the process unless the end of a copy is open.
        end = -1 if length >= num_cells else length
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, end)
        self._log.share(source, target, min(length, num_cells))
        if self._replay is not None:
            self._replay.copied(source, target, length - num_cells)
        self._shortest[target] = self._shortest[source]

    def shortest(self, seq_id: int) -> int:
        return self._shortest[seq_id] if self.info.can_cut else self._log.length(seq_id)

    def save(self, seq_id: int) -> SavedPrefix:
        length = self.length(seq_id)
        if length == 0:
            raise InvalidInputError(f"sequence {seq_id} is empty")
        is_whole = self.info.can_cut and length <= self._window
        pending = tuple(self._replay.pending(seq_id)) if self._replay is not None else ()
        shortest = 0 if is_whole else length - len(pending)
        return SavedPrefix(length, self._saved_state(seq_id), shortest, pending)

    def _saved_state(self, seq_id: int) -> Bytes:
        state = np.empty(self._llama.llama_state_seq_get_size(self._context, seq_id), np.uint8)
        written = self._llama.llama_state_seq_get_data(
            self._context, pointer_to(state), len(state), seq_id
        )
        if written == 0:
            raise EngineError(f"sequence {seq_id} could not be saved: {take_last_error()}")
        return state[:written]

    def _read_state(self, seq_id: int, state: Bytes) -> None:
        read = self._llama.llama_state_seq_set_data(
            self._context, pointer_to(state), len(state), seq_id
        )
        if read != len(state):
            raise EngineError(f"sequence {seq_id} could not be restored: {take_last_error()}")

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if self.length(seq_id) != 0:
            raise InvalidInputError(f"sequence {seq_id} is not empty")
        if not 0 < length <= saved.length:
            raise InvalidInputError(f"{length} positions wanted, {saved.length} were saved")
        if length < saved.shortest:
            raise InvalidInputError(f"{length} positions wanted, fewer than {saved.shortest}")
        num_cells = saved.length - len(saved.pending)
        if not self._log.fits(num_cells):
            self._compact(num_cells)
        # No cell below the log's end is free, so libllama appends the positions in order.
        self._read_state(seq_id, saved.state)
        self._shortest[seq_id] = saved.shortest
        self._log.append(seq_id, num_cells)
        if self._replay is not None:
            self._replay.restored(seq_id, saved.pending[: length - num_cells])
        else:
            self.truncate(seq_id, length)

    def length(self, seq_id: int) -> int:
        if not 0 <= seq_id < self.config.max_sequences:
            raise InvalidInputError(f"sequence id {seq_id} out of range")
        return self._log.length(seq_id) + self.num_pending(seq_id)

    def free_cells(self) -> int:
        # Sequences that share cells need more of them after a compaction, not fewer.
        taken = min(self._log.live, self._log.used)
        return self._log.total - taken - (self._replay.num_pending if self._replay else 0)

    def compact(self) -> None:
        self._compact(0)

    def _compact(self, wanted: int) -> None:
        """Rewrite the live sequences one after the other, without the garbage between them."""
        log = self._log
        if log.live + wanted > log.total:
            raise CacheFullError(wanted, self.free_cells(), log.total)
        lengths = log.lengths
        alive = {seq: self._saved_state(seq) for seq, length in enumerate(lengths) if length}
        kept = {}
        if self._replay is not None:
            kept = self._states.save(self._replay.keepers(lengths))
        self._llama.llama_memory_clear(self._memory, False)
        for seq_id, state in alive.items():
            self._read_state(seq_id, state)
            # Of a text that is longer than the window of the model only the window is left.
            is_whole = self.info.can_cut and lengths[seq_id] <= self._window
            self._shortest[seq_id] = 0 if is_whole else lengths[seq_id]
        self._states.restore(kept)
        logger.debug("compacted %d garbage cells, %d live", log.garbage, log.live)
        log.compacted()

    def first_difference(self) -> str:
        """Returns the first operation whose result depends on the number of tokens in a pass.

        The text names its weights, too; it is "" if there is no such operation. The call opens
        another context and takes some seconds. Raises EngineError.
        """
        return first_difference(
            self._llama, self._model, self._context_params(), self.info.num_vocab
        )

    def limit_output(self, num_tokens: int) -> None:
        """Have later passes of a draft compute the first num_tokens logits only; 0 for all."""
        self._num_output_tokens = num_tokens

    @property
    def num_threads(self) -> int:
        return self._free_cores.num_threads if self._free_cores is not None else 1

    def set_threads(self, num_threads: int) -> None:
        """Set the number of threads for the next passes."""
        self._llama.llama_set_n_threads(self._context, *self._thread_counts(num_threads))
