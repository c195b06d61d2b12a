"""Finds the operation of a model whose result depends on the number of tokens in a pass."""

from __future__ import annotations

import ctypes
import hashlib
from collections import Counter
from typing import Any

import numpy as np

from airdraft.nodes.engine.llama_batch import PassBatch
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import EngineError, Span

# One more than the tokens of a tile in ggml's products.
_NUM_TOKENS = 9

# The key is the name of an operation's result and how often the name occurred before. The value is
# a description of the operation and one digest for each token.
_Results = dict[tuple[str, int], tuple[str, list[bytes]]]


class _Tensor(ctypes.Structure):
    """The first fields of ggml_tensor in the pinned version."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("sizes", ctypes.c_int64 * 4),
    ("strides", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("sources", ctypes.POINTER(_Tensor) * 10),
    ("view_of", ctypes.c_void_p),
    ("view_offset", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def first_difference(llama: Any, model: Any, params: Any, num_vocab: int) -> str:
    """Returns the first operation that differs between a pass of several tokens and passes of one.

    The text names the operation, its weights and their type; it is "" if none differs for any
    token. model: libllama's pointer. params: Those of the context that is not exact. Raises
    EngineError.
    """
    watched = _Watch(llama)
    params.cb_eval = watched.callback
    params.cb_eval_user_data = None
    params.n_ctx = 256
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise EngineError("no context can be opened to look for the operation")
    try:
        token_ids = drawn_ids(1, _NUM_TOKENS, num_vocab)
        batch = PassBatch(llama, _NUM_TOKENS)

        def results_of(start: int, count: int) -> _Results:
            watched.begin(count)
            ids = token_ids[start : start + count]
            batch.fill([Span(0, start, ids, count)])
            if code := llama.llama_decode(context, batch.native):
                raise EngineError(f"llama_decode failed with {code}")
            return watched.results

        together = results_of(0, _NUM_TOKENS)
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        alone = [results_of(position, 1) for position in range(_NUM_TOKENS)]
    finally:
        llama.llama_free(context)
    for key, (operation, digests) in together.items():
        singles = [results.get(key, ("", []))[1] for results in alone]
        if all(singles) and digests != [digest for (digest,) in singles]:
            return operation
    return ""


class _Watch:
    """Records digests of the results of all operations of a pass."""

    def __init__(self, llama: Any) -> None:
        self._ggml = llama.llama_cpp._lib
        for name in ("ggml_op_desc", "ggml_type_name"):
            getattr(self._ggml, name).restype = ctypes.c_char_p
        self._ggml.ggml_nbytes.restype = ctypes.c_size_t
        self._ggml.ggml_is_contiguous.restype = ctypes.c_bool
        self.callback = llama.llama_cpp.ggml_backend_sched_eval_callback(self._saw)
        self.begin(1)

    def begin(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._seen: Counter[str] = Counter()
        self.results: _Results = {}

    def _saw(self, address: int, is_query: bool, _data: object) -> bool:
        if not is_query:
            self._take(ctypes.c_void_p(address))
        return True

    def _take(self, pointer: ctypes.c_void_p) -> None:
        ggml = self._ggml
        tensor = ctypes.cast(pointer, ctypes.POINTER(_Tensor)).contents
        name = tensor.name.decode("utf-8", "replace")
        occurrence = self._seen[name]
        self._seen[name] += 1
        # If the result has one part for each token, the last size other than 1 is their number.
        counts = [size for size in tensor.sizes if size != 1] or [1]
        is_of_tokens = self._num_tokens in (1, counts[-1])
        if tensor.view_of or not is_of_tokens or not ggml.ggml_is_contiguous(pointer):
            return
        size = ggml.ggml_nbytes(pointer)
        data = np.empty(size, dtype=np.uint8)
        many = ctypes.c_size_t(0), ctypes.c_size_t(size)
        ggml.ggml_backend_tensor_get(pointer, ctypes.c_void_p(data.ctypes.data), *many)
        rows = data.reshape(self._num_tokens, -1)
        digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        self.results[name, occurrence] = self._described(pointer, tensor), digests

    def _described(self, pointer: ctypes.c_void_p, tensor: _Tensor) -> str:
        operation = self._ggml.ggml_op_desc(pointer).decode()
        if source := tensor.sources[0]:
            weights = source.contents.name.decode("utf-8", "replace")
            if weights.endswith(".weight"):
                kind = self._ggml.ggml_type_name(source.contents.type).decode()
                return f"{operation} of {weights} ({kind})"
        return f"{operation} that gives {tensor.name.decode('utf-8', 'replace')}"
