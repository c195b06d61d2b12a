"""Implements the Model protocol with llama.cpp: one context, many sequences, a log of cells."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from airdraft.nodes.engine import states
from airdraft.nodes.engine.cache_size import CacheSize, first_cells
from airdraft.nodes.engine.cells import QUERIES_PER_CELL, QUERIES_PER_SKIPPED_CELL, CellLog
from airdraft.nodes.engine.cores import FreeCores
from airdraft.nodes.engine.diagnosis import first_difference
from airdraft.nodes.engine.hidden_rows import HiddenRows
from airdraft.nodes.engine.kernels.library import left_attention, limit_output
from airdraft.nodes.engine.llama_abi import check_kind, kernels, take_last_error
from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.llama_context import LlamaConfig, LlamaContext
from airdraft.nodes.engine.metadata import original_context
from airdraft.nodes.engine.protocol import (
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
# llama.h: LLAMA_CONTEXT_TYPE_MTP.
_HEAD_CONTEXT = 1


class LlamaModel(LlamaContext):
    """Implements the Model protocol with a model that computes text."""

    def __init__(self, config: LlamaConfig, *, model_hash: str | None = None) -> None:
        super().__init__(config.path, config.gpu_layers)
        self.config = config
        found = kernels(keeps_others=config.profile == "fast")
        self._has_products = config.repack and not found.missing and not self._gpu_layers
        # They and our attention give the same bits for any batch and number of threads.
        self.has_kernels = self._has_products
        self._load(repack=config.repack, has_head=config.has_head)
        # Whether sequences have a second state, so that guesses can be taken back with the first.
        self._takes_back = False
        original = original_context(self.metadata)
        try:
            check_kind(self._model, self._path.name)
            self._open_context(first_cells(config.first_cells, config.num_cells, original))
        except BaseException:
            self.close()
            raise
        most = config.max_sequences * int(self._llama.llama_model_n_ctx_train(self._model))
        self._size = CacheSize(self._num_open, config.num_cells, most, self._found.cell_bytes)
        # Of models with other positions in a larger cache, whether they have these.
        positions = (self._size.now > original,) if original else ()
        num_batch = int(self._llama.llama_n_batch(self._context))
        self._describe(
            model_hash,
            (config.profile, self._has_products, self._gpu_layers, _CACHE_TYPES, *positions),
            num_cells=self._size.limit,
            max_sequences=config.max_sequences,
            max_batch_tokens=min(config.max_batch_tokens, num_batch),
            can_cut=self._found.can_cut,
            can_take_back=self._found.can_cut or self._takes_back or config.num_snapshots > 0,
            num_snapshots=config.num_snapshots,
            num_branches=self._num_branches,
        )
        # A saved sequence lacks what lies before the last window.
        self._window = self._llama.llama_model_n_swa(self._model) or self.info.num_cells
        # This sequence is the graveyard: its cells stay occupied, and no query reads them.
        self._graveyard = config.max_sequences + self._num_branches
        self._shortest = [0] * self._graveyard
        queries = QUERIES_PER_SKIPPED_CELL if self.has_kernels else QUERIES_PER_CELL
        is_hybrid = bool(self._llama.llama_model_is_hybrid(self._model))
        most = is_hybrid * int(self._llama.llama_n_ubatch(self._context))
        self._log = CellLog(self._size.now, config.max_sequences, queries, most, self._num_branches)
        self._replay = Replay(config.max_sequences) if self._takes_back else None
        self._states = states.KeptStates(self._llama, self._context, self._graveyard + 1)
        self._batch = self._new_batch(config.max_batch_tokens)
        self._free_cores = FreeCores(config.num_threads) if config.num_threads > 1 else None
        # For its head, if it has one, which sets None when it closes.
        self.hidden: HiddenRows | None = None
        if config.has_head and self._llama.llama_model_n_layer_nextn(self._model) > 0:
            self.hidden = HiddenRows(self._llama, self._model, config.max_sequences)
            self.hidden.attach(self._context, is_head=False)

    def head_context(self, num_cells: int) -> Any:
        """Returns a context of its own for the head. Raises EngineError."""
        params = self._context_params(num_cells)
        params.ctx_type, params.n_rs_seq = _HEAD_CONTEXT, 0
        params.n_seq_max = self.config.max_sequences
        return self._new_context(params)

    def _context_params(self, num_cells: int) -> Any:
        config = self.config
        params = self._llama.llama_context_default_params()
        params.n_ctx = num_cells
        params.n_batch = config.max_batch_tokens
        params.n_ubatch = _EXACT_MICRO_BATCH if self._restricts_ggml else _MICRO_BATCH
        num_states = config.max_sequences if self._takes_back else 0
        params.n_seq_max = config.max_sequences + config.num_branches + 1 + num_states
        params.n_threads, params.n_threads_batch = self._thread_counts(config.num_threads)
        params.flash_attn_type = 1
        params.type_k, params.type_v = _CACHE_TYPES
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        return params

    def _open_context(self, num_cells: int) -> None:
        self._open(self._context_params(num_cells))
        left_attention()
        self._found = self._probe()
        # ggml computes the attention of some models, for which the limits of its kernels hold.
        is_ggmls = self.has_kernels and left_attention()
        takes_back = self._may_keep_states()
        if is_ggmls or takes_back != self._takes_back:
            self.has_kernels &= not is_ggmls
            self._takes_back = takes_back
            self._llama.llama_free(self._context)
            self._open_context(num_cells)

    @property
    def _num_branches(self) -> int:
        return self.config.num_branches if self._found.can_cut else 0

    def _may_keep_states(self) -> bool:
        """Whether sequences can have a second state."""
        if self._takes_back or not self.config.takes_back:
            return self._takes_back
        num_states, size = self.config.max_sequences, self._found.state_bytes
        return states.can_be_kept(self._llama, self._model, num_states, size)

    @property
    def _restricts_ggml(self) -> bool:
        """Whether ggml's own kernels must be kept from changing the order of their sums."""
        return self.config.profile == "exact" and not self.has_kernels

    def _thread_counts(self, num_threads: int) -> tuple[int, int]:
        """Returns the threads for passes of one token and for other passes."""
        # For a single query ggml's attention divides the keys between threads and joins their
        # results, so the bits depend on the number of threads.
        return (1 if self._restricts_ggml else num_threads), num_threads

    def _probe(self) -> states.Probed:
        return states.probe(self._llama, self._context, self._new_batch(2), self._path.name)

    def _new_batch(self, size: int) -> PassBatch:
        return PassBatch(self._llama, size)

    def forward(self, spans: Sequence[Span]) -> Logits:
        log, replay = self._log, self._replay
        lengths = log.lengths
        if replay is None:
            num_tokens = check_spans(spans, self.info, lengths)
            self.make_room(num_tokens)
            return self._run(spans)
        known = [n + len(replay.pending(seq_id)) for seq_id, n in enumerate(lengths)]
        check_spans(spans, self.info, known)
        passes = replay.passes(spans, self.info.max_batch_tokens, self._room())
        logits = self._run_all(spans, passes)
        # From the end of the log on, so that cells become free again.
        for span in (span for part in reversed(passes) for span in reversed(part)):
            if span.num_padding:
                self.truncate(span.seq_id, span.start + len(span.token_ids) - span.num_padding)
        return logits

    def _run_all(self, spans: Sequence[Span], passes: Sequence[Sequence[Span]]) -> Logits:
        """Run passes one after the other; returns their logits in the order of the spans."""
        self.make_room(sum(len(span.token_ids) for part in passes for span in part))
        rows: dict[int, Logits] = {}
        logits = np.empty((0, self.info.num_vocab), dtype=np.float32)
        for part in passes:
            # The next pass overwrites the logits of this one.
            rows = {seq_id: found.copy() for seq_id, found in rows.items()}
            for span in part:
                if span.keeps and self._replay is not None:
                    self._keep_state(span.seq_id)
            logits, place = self._compute(part), 0
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

    def _keep_state(self, seq_id: int) -> None:
        self._states.keep(seq_id)

    def _compute(self, spans: Sequence[Span]) -> Logits:
        return self._run(spans)

    def _room(self) -> int:
        """Returns the cells that a compaction could make free."""
        return self._size.most(live := self._log.live) - live

    def make_room(self, num_tokens: int) -> None:
        """Compact the cache if that is necessary or pays. Raises CacheFullError."""
        log = self._log
        # A compaction ends the sharing of cells, so the result may need more of them. One that is
        # not necessary runs only if the result fits.
        if not log.fits(num_tokens) or (
            log.should_compact() and log.live + num_tokens <= log.total
        ):
            self.compact(num_tokens)

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
        if not rows:
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
        if length != self._log.length(seq_id):
            self._cut_cells(seq_id, length)

    def _cut_cells(self, seq_id: int, length: int) -> None:
        llama, memory = self._llama, self._memory
        if not self._log.truncate(seq_id, length):
            llama.llama_memory_seq_cp(memory, seq_id, self._graveyard, length, -1)
        if length and self._takes_back:
            self._states.put_back(seq_id)
        if not llama.llama_memory_seq_rm(memory, seq_id, length or -1, -1):
            raise EngineError(f"sequence {seq_id} could not be cut to {length}")
        if not any(self._log.lengths):
            llama.llama_memory_clear(memory, False)
            self._log.compacted()

    def num_pending(self, seq_id: int) -> int:
        return len(self._replay.pending(seq_id)) if self._replay is not None else 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if not 0 < length <= self.length(source) or length < self.shortest(source):
            raise InvalidInputError(f"sequence {source} cannot be copied up to {length}")
        num_cells = self._log.length(source)
        known = min(length, self._log.num_shared(source, target)) if self.length(target) else 0
        if target >= self.config.max_sequences:
            self.truncate(target, known)
        if self.length(target) != known:
            raise InvalidInputError(f"sequence {target} is not empty")
        # DeepSeek V4 ends the process unless the end of a copy is open.
        end = -1 if length >= num_cells else length
        self._llama.llama_memory_seq_cp(self._memory, source, target, known, end)
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
        state = states.saved_state(self._llama, self._context, seq_id)
        return SavedPrefix(length, state, shortest, pending)

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if self.length(seq_id) != 0:
            raise InvalidInputError(f"sequence {seq_id} is not empty")
        if not max(1, saved.shortest) <= length <= saved.length:
            raise InvalidInputError(f"{length} of {saved.length} positions cannot be restored")
        num_cells = saved.length - len(saved.pending)
        if not self._log.fits(num_cells):
            self.compact(num_cells)
        # No cell below the log's end is free, so libllama appends the positions in order.
        states.read_state(self._llama, self._context, seq_id, saved.state)
        self._shortest[seq_id] = saved.shortest
        self._log.append(seq_id, num_cells)
        if self._replay is not None:
            self._replay.restored(seq_id, saved.pending[: length - num_cells])
        else:
            self.truncate(seq_id, length)

    def length(self, seq_id: int) -> int:
        if not 0 <= seq_id < self._graveyard:
            raise InvalidInputError(f"sequence id {seq_id} out of range")
        return self._log.length(seq_id) + self.num_pending(seq_id)

    def free_cells(self) -> int:
        log = self._log
        # Sequences that share cells need more of them after a compaction, not fewer.
        free = max(log.total - log.used, self._room())
        return free - (self._replay.num_pending if self._replay else 0)

    def compact(self, num_tokens: int = 0) -> None:
        """Rewrite the live sequences one after the other, without the garbage between them, in a
        larger cache if they and the next tokens would fill more than half of this one."""
        log = self._log
        wanted = log.live + num_tokens
        total = self._size.for_wanted(wanted, log.live)
        if wanted > total:
            raise CacheFullError(num_tokens, self.free_cells(), total)
        lengths = log.kept
        alive = states.saved_states(self._llama, self._context, lengths)
        kept = self._states.save(self._keepers(lengths))
        if total > log.total:
            self._reopen(total)
        else:
            self._llama.llama_memory_clear(self._memory, False)
        states.read_states(self._llama, self._context, alive)
        for seq_id in alive:
            # Of a text that is longer than the window of the model only the window is left.
            is_whole = self.info.can_cut and lengths[seq_id] <= self._window
            self._shortest[seq_id] = 0 if is_whole else lengths[seq_id]
        self._states.restore(kept)
        log.compacted(self._size.now)
        if wanted > log.total:
            raise CacheFullError(num_tokens, self.free_cells(), log.total)

    def _keepers(self, lengths: Sequence[int]) -> Sequence[int]:
        """Returns the sequences whose kept state is another one than theirs now."""
        return self._replay.keepers(lengths) if self._replay is not None else ()

    def _reopen(self, num_cells: int) -> None:
        """Open an empty cache, of as many cells as before if there is no memory for num_cells."""
        self._llama.llama_free(self._context)
        self._context = None
        try:
            self._open(self._context_params(num_cells))
        except EngineError as error:
            logger.warning("the cache stays at %d cells: %s", self._size.now, error)
            self._open(self._context_params(self._size.now))
            self._size.limit = self._size.now
        self._size.now = self._num_open
        self._states.context = self._context
        self.set_threads(self.num_threads)
        if self.hidden is not None:
            self.hidden.attach(self._context, is_head=False)
        logger.info("the cache has %d cells now, at most %d", self._size.now, self._size.limit)

    def first_difference(self) -> str:
        """Returns the first operation whose result depends on the number of tokens in a pass.

        The text names its weights, too; it is "" if there is no such operation. The call opens
        another context and takes some seconds. Raises EngineError.
        """
        known = self._llama, self._model, self._context_params(self._num_open)
        return first_difference(*known, self.info.num_vocab)

    @property
    def num_threads(self) -> int:
        return self._free_cores.num_threads if self._free_cores is not None else 1

    def set_threads(self, num_threads: int) -> None:
        """Set the number of threads for the next passes."""
        self._llama.llama_set_n_threads(self._context, *self._thread_counts(num_threads))
