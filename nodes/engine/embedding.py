"""A model that computes a vector of each text in one pass, with libllama's pooling."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.llama_abi import take_last_error
from airdraft.nodes.engine.llama_context import LlamaContext
from airdraft.nodes.engine.protocol import EngineError, InvalidInputError

Vector = npt.NDArray[np.float32]
# A text is read in one pass, whose memory grows with the square of the length.
MOST_EMBEDDED_TOKENS: Final = 8192


class EmbeddingModel(LlamaContext):
    """A GGUF model that computes vectors. Only one thread at a time may use it.

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
        super().__init__(path, gpu_layers)
        self._load(repack=True)
        llama = self._llama
        self.max_tokens = min(max_tokens, int(llama.llama_model_n_ctx_train(self._model)))
        params = llama.llama_context_default_params()
        # A text is one batch, because attention in both directions cannot be divided.
        params.n_ctx = params.n_batch = params.n_ubatch = self.max_tokens
        params.n_threads = params.n_threads_batch = num_threads
        params.embeddings = True
        # libllama does not read the pooling type of every architecture from the file.
        architecture = self.metadata("general.architecture")
        params.pooling_type = int(self.metadata(f"{architecture}.pooling_type"))
        params.no_perf = True
        self._open(params)
        self.num_values = int(llama.llama_model_n_embd(self._model))
        self._describe(
            model_hash,
            (self._gpu_layers,),
            num_cells=self.max_tokens,
            max_sequences=1,
            max_batch_tokens=self.max_tokens,
            can_cut=False,
            can_take_back=False,
        )

    def embed(self, token_ids: list[int]) -> Vector:
        """Returns the (num_values,) vector of a text, normalised to length 1.

        Raises InvalidInputError for a text that is empty or too long, or whose vector is not of
        numbers, and EngineError.
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
        if not np.isfinite(vector).all():
            raise InvalidInputError("the model's vector is not of numbers: check the model file")
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if length > 0 else vector

    def pass_s(self) -> float:
        """Measure the seconds that the longest text takes."""
        token_id = min(self.info.num_vocab - 1, 1)
        started = time.perf_counter()
        self.embed([token_id] * self.max_tokens)
        return time.perf_counter() - started
