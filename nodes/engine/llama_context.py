"""A model file that is open in libllama: what models of text and of vectors have in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from airdraft.nodes.engine.llama_abi import (
    build_name,
    hash_file,
    library,
    load_model,
    metadata_of,
    take_last_error,
)
from airdraft.nodes.engine.metadata import NAME_KEY, traits_of
from airdraft.nodes.engine.protocol import EngineError, EngineInfo
from airdraft.nodes.engine.sandbox.process import SandboxedTokenizer
from airdraft.nodes.engine.vocab import LlamaTokenizer

Profile = Literal["exact", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """How one model runs.

    num_cells: The limit of its cache, which begins with first_cells; 0 for what the memory allows.
    num_branches: As in EngineInfo; none for models whose sequences cannot be cut at will.
    repack: Whether weights may have other layouts than in the file. takes_back: Whether a model
    with recurrent layers keeps a second state of each sequence, so that it can have guesses.
    num_snapshots: That many states of its last tokens are kept instead (snapshots.py). has_head:
    Whether the file's own head is loaded, if it has one (head.py).
    """

    path: Path
    profile: Profile = "exact"
    num_cells: int = 0
    first_cells: int = 4096
    max_sequences: int = 16
    num_branches: int = 0
    max_batch_tokens: int = 256
    num_threads: int = 1
    gpu_layers: int = 0
    repack: bool = True
    takes_back: bool = True
    num_snapshots: int = 0
    has_head: bool = False


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
        # Passes compute the logits of this many first tokens of the vocabulary; 0 for all of them.
        self._num_output_tokens = 0

    @property
    def _num_open(self) -> int:
        """Cells of the context that is open."""
        return int(self._llama.llama_n_ctx(self._context))

    @property
    def _memory(self) -> Any:
        return self._llama.llama_get_memory(self._context)

    def limit_output(self, num_tokens: int) -> None:
        """Have later passes of a draft compute the first num_tokens logits only; 0 for all."""
        self._num_output_tokens = num_tokens

    def _load(self, *, repack: bool, has_head: bool = False) -> None:
        """Load the file. Raises ModelFileError."""
        self._model = load_model(
            self._path, gpu_layers=self._gpu_layers, repack=repack, has_head=has_head
        )
        # It runs in this process, so it must not read the texts of clients.
        self.vocabulary = LlamaTokenizer(self._model)
        self.tokenizer = SandboxedTokenizer(self._path, self.vocabulary)

    def _open(self, params: Any) -> None:
        """Open the context. Raises EngineError."""
        self._context = self._new_context(params)

    def _new_context(self, params: Any) -> Any:
        take_last_error()
        context = self._llama.llama_init_from_model(self._model, params)
        if not context:
            reason = take_last_error() or "not enough memory?"
            raise EngineError(f"no context for {self._path.name}: {reason}")
        return context

    def _describe(self, model_hash: str | None, form: tuple[object, ...], **limits: Any) -> None:
        """Set `info`. form: All that decides its bits beside file and build."""
        model_hash = model_hash or hash_file(self._path)
        self.info = EngineInfo(
            engine="llama.cpp",
            model=self.metadata(NAME_KEY) or self._path.name,
            model_hash=model_hash,
            vocab_hash=self.vocabulary.content_hash(),
            num_vocab=self.vocabulary.num_vocab,
            context_length=int(self._llama.llama_model_n_ctx_train(self._model)),
            eog_token_ids=self.vocabulary.eog_token_ids(),
            exact=False,
            numerics_class=self._numerics_class(model_hash, form),
            traits=traits_of(self.metadata),
            **limits,
        )

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

    @staticmethod
    def _numerics_class(model_hash: str, form: tuple[object, ...]) -> str:
        numerics = repr((model_hash, build_name(), *form))
        return hashlib.sha256(numerics.encode()).hexdigest()[:16]

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
