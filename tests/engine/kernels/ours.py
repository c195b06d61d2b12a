"""Our kernels by themselves, and ggml's own quantisation."""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from airdraft.nodes.engine import llama_abi
from airdraft.nodes.engine.kernels.library import library

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# The formats that our kernels have, by ggml's numbers.
K_TYPES = {"Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "IQ4_NL": 20, **K_TYPES}
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
    own = Path(llama_abi.library().__file__).parent / "lib"
    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or own
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


NAMES = ("avx512", "avxvnni", "avx2", "any")
ROWS = 16


@functools.cache
def runnable() -> tuple[str, ...]:
    """The instruction sets that this processor has."""
    nothing = np.zeros((1, 64), dtype=np.float32)
    packed = Packed("F32", nothing.view(np.uint8), 64)
    return tuple(name for name in NAMES if packed.multiply(name, nothing) is not None)


@functools.cache
def kernels() -> ctypes.CDLL:
    found = library()
    if found is None:
        pytest.fail("the kernels are not built: `python -m airdraft.nodes.engine.kernels.build`")
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    many = ctypes.c_int64
    found.airdraft_packed_bytes.restype = size
    found.airdraft_packed_bytes.argtypes = [number, many, many]
    found.airdraft_pack.restype = None
    found.airdraft_pack.argtypes = [number, pointer, size, many, many, pointer]
    found.airdraft_multiply.restype = ctypes.c_bool
    found.airdraft_multiply.argtypes = [
        *(ctypes.c_char_p, number, pointer, many, many),
        *(number, number, pointer, number, pointer),
    ]
    found.airdraft_attend.restype = ctypes.c_bool
    found.airdraft_attend.argtypes = [
        *(ctypes.c_char_p, pointer, number, pointer, pointer, pointer),
        *(many, number, number, ctypes.c_float, ctypes.c_bool, pointer),
    ]
    return found


class Packed:
    """Rows of weights in our layout."""

    def __init__(self, kind: str, rows: Bytes, columns: int) -> None:
        self.type, self.num_rows, self.columns = TYPES[kind], len(rows), columns
        self.num_groups = -(-self.num_rows // ROWS)
        size = kernels().airdraft_packed_bytes(self.type, self.num_rows, columns)
        self._memory = np.zeros(size + 64, dtype=np.uint8)
        self._at = self._memory.ctypes.data + -self._memory.ctypes.data % 64
        rows = np.ascontiguousarray(rows)
        shape = (self.num_rows, columns)
        kernels().airdraft_pack(self.type, rows.ctypes.data, rows.shape[1], *shape, self._at)

    def multiply(self, name: str, x: Floats, *, cut: int = 0) -> Floats | None:
        """(tokens, rows); None where the processor lacks the instructions.

        cut: groups of rows that a second call computes, as another thread would.
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        out = np.full((len(x), self.num_rows), np.nan, dtype=np.float32)
        for first, last in ((0, cut), (cut, self.num_groups)):
            if not kernels().airdraft_multiply(
                *(name.encode(), self.type, self._at, self.num_rows, self.columns, first, last),
                *(x.ctypes.data, len(x), out.ctypes.data),
            ):
                return None
        return out


def attend(
    name: str,
    q: Floats,
    k: Floats,
    v: Floats,
    mask: Floats,
    scale: float,
    *,
    unfolded: bool = False,
) -> Floats:
    """(heads, value size) of (heads, key size) queries and (cells, size) keys and values.

    unfolded: as many queries are that see the same cells.
    """
    out = np.zeros((len(q), v.shape[1]), dtype=np.float32)
    q = np.ascontiguousarray(q, dtype=np.float32)
    keys, values, masks = (np.ascontiguousarray(a, dtype=np.float16) for a in (k, v, mask))
    done = kernels().airdraft_attend(
        *(name.encode(), q.ctypes.data, len(q), keys.ctypes.data, values.ctypes.data),
        *(masks.ctypes.data, len(k), k.shape[1], v.shape[1], scale, unfolded, out.ctypes.data),
    )
    assert done
    return out
