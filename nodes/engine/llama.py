"""Implements the Model protocol with llama.cpp: one context, many sequences, a log of cells."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from airdraft.nodes.engine.cells import QUERIES_PER_CELL, QUERIES_PER_SKIPPED_CELL, CellLog
from airdraft.nodes.engine.chat.tools import told_switch
from airdraft.nodes.engine.cores import FreeCores
from airdraft.nodes.engine.diagnosis import first_difference
from airdraft.nodes.engine.kernels.library import left_attention, limit_output
from airdraft.nodes.engine.llama_abi import (
    build_name,
    check_kind,
    hash_file,
    kernels,
    library,
    load_model,
    metadata_of,
    take_last_error,
)
from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.metadata import MARKED, thinking_after, traits_of
from airdraft.nodes.engine.protocol import (
    Bytes,
    CacheFullError,
    EngineError,
    EngineInfo,
    InvalidInputError,
    Logits,
    SavedPrefix,
    Span,
    check_spans,
)
from airdraft.nodes.engine.sandbox.process import SandboxedTokenizer
from airdraft.nodes.engine.vocab import LlamaTokenizer

logger = logging.getLogger(__name__)

Profile = Literal["exact", "fast"]
# From 64 queries of one stream in a pass ggml's own attention uses another kernel, which computes
# other bits.
_EXACT_MICRO_BATCH = 32
_MICRO_BATCH = 512
# The last tokens of a prompt hold the mark of thoughts, if it is there.
_END_TOKENS = 32
_ANY_DATE = "2000-01-01"
# The types of keys and values: ggml's number of F16.
_CACHE_TYPES = 1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """How one model runs. repack: Whether weights may have other layouts than in the file."""

    path: Path
    profile: Profile = "exact"
    num_cells: int = 8192
    max_sequences: int = 16
    max_batch_tokens: int = 256
    num_threads: int = 1
    gpu_layers: int = 0
    repack: bool = True


class LlamaContext:
    """A GGUF model with one libllama context. After construction one thread owns it."""

    info: EngineInfo

    def __init__(self, path: Path, gpu_layers: int) -> None:
        self._llama = library()
        self._path = path
        # Without a backend for a GPU the number has no effect, so it must not change the numerics
        # class.
        self._gpu_layers = gpu_layers if self._llama.llama_supports_gpu_offload() else 0
        self._model: Any = None
        self._context: Any = None

    def _load(self, *, repack: bool) -> None:
        """Load the file. Raises ModelFileError."""
        self._model = load_model(self._path, gpu_layers=self._gpu_layers, repack=repack)
        # It runs in this process, so it must not read the texts of clients.
        self.vocabulary = LlamaTokenizer(self._model)
        self.tokenizer = SandboxedTokenizer(self._path, self.vocabulary)

    def _open(self, params: Any) -> None:
        """Open the context. Raises EngineError."""
        take_last_error()
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            reason = take_last_error() or "not enough memory?"
            raise EngineError(f"no context for {self._path.name}: {reason}")

    def _describe(self, model_hash: str | None, form: tuple[object, ...], **limits: Any) -> None:
        """Set `info`. form: All that decides its bits beside file and build."""
        model_hash = model_hash or hash_file(self._path)
        numerics = hashlib.sha256(repr((model_hash, build_name(), *form)).encode())
        self.info = EngineInfo(
            engine="llama.cpp",
            model=self._path.name,
            model_hash=model_hash,
            vocab_hash=self.vocabulary.content_hash(),
            num_vocab=self.vocabulary.num_vocab,
            context_length=int(self._llama.llama_model_n_ctx_train(self._model)),
            eog_token_ids=self.vocabulary.eog_token_ids(),
            exact=False,
            numerics_class=numerics.hexdigest()[:16],
            traits=traits_of(self.metadata),
            **limits,
        )

    def metadata(self, key: str) -> str:
        """Returns a text of the file's metadata; "" if it is missing or unusually long."""
        return metadata_of(self._model, key)

    def close(self) -> None:
        if self._model:
            self.tokenizer.close()
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None


class LlamaModel(LlamaContext):
    """Implements the Model protocol with a model that computes text."""

    def __init__(self, config: LlamaConfig, *, model_hash: str | None = None) -> None:
        super().__init__(config.path, config.gpu_layers)
        self.config = config
        found = kernels(keeps_others=config.profile == "fast")
        self._has_products = config.repack and not found.missing and not self._gpu_layers
        # Our products and attention give the same bits for any batch and number of threads.
        self.has_kernels = self._has_products
        self._load(repack=config.repack)
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
            can_roll_back=self._can_roll_back,
        )
        # Of a sequence in its saved state llama.cpp leaves out what lies before the last window.
        self._window = self._llama.llama_model_n_swa(self._model) or self.info.num_cells
        self._shortest = [0] * config.max_sequences
        per_cell = QUERIES_PER_SKIPPED_CELL if self.has_kernels else QUERIES_PER_CELL
        is_hybrid = self._llama.llama_model_is_hybrid(self._model)
        most = int(self._llama.llama_n_ubatch(self._context)) if is_hybrid else 0
        self._log = CellLog(self.info.num_cells, config.max_sequences, per_cell, most)
        # The last sequence id is the graveyard: its cells stay occupied, and no query reads them.
        self._graveyard = config.max_sequences
        self._batch = PassBatch(self._llama, config.max_batch_tokens)
        self._free_cores = FreeCores(config.num_threads) if config.num_threads > 1 else None
        # Passes compute the logits of this many first tokens of the vocabulary; 0 for all of them.
        self._num_output_tokens = 0

    def _context_params(self) -> Any:
        config = self.config
        params = self._llama.llama_context_default_params()
        params.n_ctx = config.num_cells
        params.n_batch = config.max_batch_tokens
        params.n_ubatch = _EXACT_MICRO_BATCH if self._restricts_ggml else _MICRO_BATCH
        params.n_seq_max = config.max_sequences + 1
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
        self._can_roll_back = self._probe_roll_back()
        if self.has_kernels and left_attention():
            # ggml computes this model's attention, so the limits for ggml's kernels hold.
            self.has_kernels = False
            self._llama.llama_free(self._context)
            self._open_context()

    @property
    def _restricts_ggml(self) -> bool:
        """Whether ggml's own kernels must be kept from changing the order of their sums."""
        return self.config.profile == "exact" and not self.has_kernels

    def _thread_counts(self, num_threads: int) -> tuple[int, int]:
        """Returns the threads for passes of one token and for other passes."""
        # For a single query ggml's attention divides the keys between threads and joins their
        # results, so the bits depend on the number of threads.
        return (1 if self._restricts_ggml else num_threads), num_threads

    def _probe_roll_back(self) -> bool:
        """Whether the last position of a sequence can be removed; recurrent models cannot do it."""
        batch = PassBatch(self._llama, 2)
        batch.fill([Span(0, 0, (0, 0))])
        if self._llama.llama_decode(self._context, batch.native) != 0:
            raise EngineError(f"{self._path.name} cannot run two tokens: {take_last_error()}")
        removed = bool(self._llama.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self._llama.llama_memory_clear(self._memory, True)
        return removed

    def find_thinking(self) -> None:
        """Find out whether prompts end in thoughts; the template's code decides this.

        To be called once, by who serves conversations. Raises EngineError.
        """
        traits = self.info.traits
        if traits.thinking != MARKED:
            return
        usual, off, on = map(self._thinking_if, (None, False, True))
        traits = replace(traits, thinking=usual, thinking_off=off, thinking_on=on)
        self.info = replace(self.info, traits=traits)

    def _thinking_if(self, thinks: bool | None) -> str:
        """Returns how answers begin for a request that switches thinking on or off."""
        hello, switch = [("user", "Hello")], told_switch(thinks)
        try:
            prompt = self.tokenizer.encode_chat(hello, date=_ANY_DATE, tools=switch)
        except InvalidInputError:
            # The template refuses this conversation, or takes too long.
            return MARKED
        except (OSError, RuntimeError) as error:
            raise EngineError(f"the chat template of {self._path.name}: {error}") from error
        return thinking_after(self.vocabulary.spelled(prompt[-_END_TOKENS:]))

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
        log = self._log
        num_tokens = check_spans(spans, self.info, log.lengths)
        # A compaction ends the sharing of cells, so the result may need more of them. One that is
        # not necessary runs only if the result fits.
        if not log.fits(num_tokens) or (
            log.should_compact() and log.live + num_tokens <= log.total
        ):
            self._compact(num_tokens)
        rows = self._batch.fill(spans)
        log.read(num_tokens)
        if self._free_cores is not None and self._free_cores.changed():
            self.set_threads(self._free_cores.num_threads)
        # The limit is one of the process, which may run a second model.
        limit_output(self._num_output_tokens)
        code = self._llama.llama_decode(self._context, self._batch.native)
        if code != 0:
            raise EngineError(f"llama_decode failed with {code}: {take_last_error()}")
        log.append_pass((span.seq_id, len(span.token_ids)) for span in spans)
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
        if length == 0:
            self._shortest[seq_id] = 0
        elif not self.info.can_roll_back:
            raise InvalidInputError(f"{self.info.model} cannot roll back a sequence")
        llama, memory = self._llama, self._memory
        if not self._log.truncate(seq_id, length):
            llama.llama_memory_seq_cp(memory, seq_id, self._graveyard, length, -1)
        if not llama.llama_memory_seq_rm(memory, seq_id, length or -1, -1):
            raise EngineError(f"sequence {seq_id} could not be cut to {length}")
        if self._log.live == 0:
            llama.llama_memory_clear(memory, False)
            self._log.compacted()

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        if self.length(target) != 0:
            raise InvalidInputError(f"sequence {target} is not empty")
        if not 0 < length <= self.length(source) or length < self.shortest(source):
            raise InvalidInputError(f"sequence {source} cannot be copied up to {length}")
        # DeepSeek V4 ends the process unless the end of a copy is open.
        end = -1 if length == self.length(source) else length
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, end)
        self._log.share(source, target, length)
        self._shortest[target] = self._shortest[source]

    def shortest(self, seq_id: int) -> int:
        return self._shortest[seq_id] if self.info.can_roll_back else self.length(seq_id)

    def save(self, seq_id: int) -> SavedPrefix:
        length = self.length(seq_id)
        if length == 0:
            raise InvalidInputError(f"sequence {seq_id} is empty")
        state = np.empty(self._llama.llama_state_seq_get_size(self._context, seq_id), np.uint8)
        written = self._llama.llama_state_seq_get_data(
            self._context, _pointer_to(state), len(state), seq_id
        )
        if written == 0:
            raise EngineError(f"sequence {seq_id} could not be saved: {take_last_error()}")
        is_whole = self.info.can_roll_back and length <= self._window
        return SavedPrefix(length, state[:written], 0 if is_whole else length)

    def _read_state(self, seq_id: int, saved: SavedPrefix) -> None:
        state = saved.state
        read = self._llama.llama_state_seq_set_data(
            self._context, _pointer_to(state), len(state), seq_id
        )
        if read != len(state):
            raise EngineError(f"sequence {seq_id} could not be restored: {take_last_error()}")
        self._shortest[seq_id] = saved.shortest

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        if self.length(seq_id) != 0:
            raise InvalidInputError(f"sequence {seq_id} is not empty")
        if not 0 < length <= saved.length:
            raise InvalidInputError(f"{length} positions wanted, {saved.length} were saved")
        if length < saved.shortest:
            raise InvalidInputError(f"{length} positions wanted, fewer than {saved.shortest}")
        if not self._log.fits(saved.length):
            self._compact(saved.length)
        # No cell below the log's end is free, so libllama appends the positions in order.
        self._read_state(seq_id, saved)
        self._log.append(seq_id, saved.length)
        self.truncate(seq_id, length)

    def length(self, seq_id: int) -> int:
        if not 0 <= seq_id < self.config.max_sequences:
            raise InvalidInputError(f"sequence id {seq_id} out of range")
        return self._log.length(seq_id)

    def free_cells(self) -> int:
        # Sequences that share cells need more of them after a compaction, not fewer.
        return self._log.total - min(self._log.live, self._log.used)

    def _compact(self, wanted: int) -> None:
        """Rewrite the live sequences one after the other, without the garbage between them."""
        log = self._log
        if log.live + wanted > log.total:
            raise CacheFullError(wanted, self.free_cells(), log.total)
        alive = {seq_id: self.save(seq_id) for seq_id, length in enumerate(log.lengths) if length}
        self._llama.llama_memory_clear(self._memory, False)
        for seq_id, saved in alive.items():
            self._read_state(seq_id, saved)
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


def _pointer_to(state: Bytes) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
