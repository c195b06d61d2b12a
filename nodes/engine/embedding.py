"""A model that computes a vector of each text in one pass, with libllama's pooling."""

from __future__ import annotations

import ctypes
import hashlib
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nodes.engine.llama_abi import (
    build_name,
    hash_file,
    library,
    load_model,
    metadata_of,
    take_last_error,
)
from nodes.engine.metadata import traits_of
from nodes.engine.protocol import EngineError, EngineInfo, InvalidInputError
from nodes.engine.sandbox.process import SandboxedTokenizer
from nodes.engine.vocab import LlamaTokenizer

Vector = npt.NDArray[np.float32]
# A text is read in one pass, whose memory grows with the square of the length.
MOST_EMBEDDED_TOKENS: Final = 8192


class EmbeddingModel:
    """A GGUF model with its context. Only one thread at a time may use it.

    max_tokens: The longest text; the model's own limit if that is lower. Raises ModelFileError or
    EngineError.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_tokens: int,
        num_threads: int = 1,
        gpu_layers: int = 0,
        model_hash: str | None = None,
    ) -> None:
        llama = self._llama = library()
        self._context: Any = None
        self._model = load_model(path, gpu_layers=gpu_layers, repack=True)
        self.vocabulary = LlamaTokenizer(self._model)
        self.tokenizer = SandboxedTokenizer(path, self.vocabulary)
        trained = int(llama.llama_model_n_ctx_train(self._model))
        self.max_tokens = min(max_tokens, trained)
        params = llama.llama_context_default_params()
        # A text is one batch, because attention in both directions cannot be divided.
        params.n_ctx = params.n_batch = params.n_ubatch = self.max_tokens
        params.n_threads = params.n_threads_batch = num_threads
        params.embeddings = True
        # libllama does not read the pooling type of every architecture from the file.
        architecture = metadata_of(self._model, "general.architecture")
        params.pooling_type = int(metadata_of(self._model, f"{architecture}.pooling_type"))
        params.no_perf = True
        take_last_error()
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            reason = take_last_error() or "not enough memory?"
            self.close()
            raise EngineError(f"no context for {path.name}: {reason}")
        self.num_values = int(llama.llama_model_n_embd(self._model))
        model_hash = model_hash or hash_file(path)
        numerics = hashlib.sha256(repr((model_hash, build_name(), gpu_layers)).encode())
        self.info = EngineInfo(
            engine="llama.cpp",
            model=path.name,
            model_hash=model_hash,
            vocab_hash=self.vocabulary.content_hash(),
            num_vocab=self.vocabulary.num_vocab,
            num_cells=self.max_tokens,
            max_sequences=1,
            max_batch_tokens=self.max_tokens,
            context_length=trained,
            eog_token_ids=self.vocabulary.eog_token_ids(),
            exact=False,
            numerics_class=numerics.hexdigest()[:16],
            can_roll_back=False,
            traits=traits_of(lambda key: metadata_of(self._model, key)),
        )

    def embed(self, token_ids: list[int]) -> Vector:
        """Return the (num_values,) vector of a text, normalised to length 1.

        Raises InvalidInputError for a text that is empty or too long, and EngineError.
        """
        llama = self._llama
        if not 0 < len(token_ids) <= self.max_tokens:
            raise InvalidInputError(
                f"the text has {len(token_ids)} tokens, {self.max_tokens} at most are accepted"
            )
        if max(token_ids) >= self.info.num_vocab:
            raise InvalidInputError(f"token ids go up to {self.info.num_vocab - 1}")
        # Otherwise a model with a KV cache would also attend to the previous text.
        if memory := llama.llama_get_memory(self._context):
            llama.llama_memory_clear(memory, True)
        tokens = (ctypes.c_int32 * len(token_ids))(*token_ids)
        batch = llama.llama_batch_get_one(tokens, len(token_ids))
        take_last_error()
        if (code := llama.llama_decode(self._context, batch)) != 0:
            raise EngineError(f"llama_decode failed with {code}: {take_last_error()}")
        found = llama.llama_get_embeddings_seq(self._context, 0)
        if not found:
            raise EngineError("the model gave no vector")
        vector: Vector = np.ctypeslib.as_array(found, (self.num_values,)).copy()
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if length > 0 else vector

    def pass_s(self) -> float:
        """Measure the seconds that the longest text takes."""
        token_id = min(self.info.num_vocab - 1, 1)
        started = time.perf_counter()
        self.embed([token_id] * self.max_tokens)
        return time.perf_counter() - started

    def close(self) -> None:
        self.tokenizer.close()
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None
