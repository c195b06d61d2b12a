"""ggml's own quantisation."""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.engine.llama_abi import library

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# The formats that our kernels have, by ggml's numbers.
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
_POINTER = ctypes.c_void_p
_CONVERT = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, ctypes.c_int64)


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _CONVERT),
        ("from_float", _POINTER),
    )


@functools.cache
def _libllama() -> Any:
    # Functions of ggml's libraries are found through the one that depends on them.
    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or Path(library().__file__).parent / "lib"
    (path,) = (each for each in Path(folder).glob("libllama.*") if each.suffix in (".so", ".dylib"))
    found = ctypes.CDLL(str(path))
    found.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    found.ggml_row_size.restype = ctypes.c_size_t
    found.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    return found


def row_bytes(kind: str, columns: int) -> int:
    return int(_libllama().ggml_row_size(TYPES[kind], columns))


def quantize(kind: str, weights: Floats) -> Bytes:
    """(rows, bytes of a row) of (rows, columns) floats."""
    rows, columns = weights.shape
    out = np.zeros((rows, row_bytes(kind, columns)), dtype=np.uint8)
    floats = np.ascontiguousarray(weights)
    many = (ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(columns))
    _libllama().ggml_quantize_chunk(
        TYPES[kind], _POINTER(floats.ctypes.data), _POINTER(out.ctypes.data), *many, None
    )
    return out


def floats_of(kind: str, rows: Bytes, columns: int) -> Floats:
    """(rows, columns) that the bytes stand for."""
    if kind == "F32":
        return rows.view(np.float32)
    out = np.zeros((len(rows), columns), dtype=np.float32)
    convert = _libllama().ggml_get_type_traits(TYPES[kind]).contents.to_float
    convert(rows.ctypes.data, out.ctypes.data, out.size)
    return out
