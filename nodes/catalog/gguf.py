"""Reads the header of a GGUF file and finds truncated files, without loading the tensors.

The layout is that of ggml's gguf.md. Counts are checked against limits and the file before loops.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airdraft.nodes.engine.metadata import (
    COUNT_KEY,
    END_KEY,
    FIRST_KEY,
    MODEL_KEY,
    Blocks,
    traits_of,
)
from airdraft.nodes.engine.traits import ModelTraits

_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_ARRAY_ITEMS = 1 << 22  # the largest vocabularies have a few hundred thousand entries
_MAX_DIMENSIONS = 4
_MAX_KEY_BYTES = 1 << 16
# libllama multiplies, divides and allocates by these sizes. A value that no model has is damage.
_BOUNDS = {
    b".block_count": (1, 1024),
    b".context_length": (1, 1 << 26),
    b".embedding_length": (1, 1 << 17),
    b".feed_forward_length": (1, 1 << 20),
    b".attention.head_count": (1, 4096),
    b".attention.head_count_kv": (0, 4096),
    b".attention.key_length": (1, 1 << 14),
    b".attention.value_length": (1, 1 << 14),
    b".rope.dimension_count": (0, 1 << 14),
    b".expert_count": (0, 4096),
    b".expert_used_count": (0, 4096),
    b".vocab_size": (1, _MAX_ARRAY_ITEMS),
}
# These architectures have no attention. llama.cpp's converter writes 0 for what they lack.
_RECURRENT = (b"mamba", b"mamba2", b"rwkv6", b"rwkv6qwen2", b"rwkv7", b"arwkv7")
_MAY_BE_LACKING = (b".feed_forward_length", b".attention.head_count")

# A header begins with a magic number, a version, and two 64-bit counts.
_AT_VERSION, _AT_NUM_TENSORS, _AT_NUM_KEYS = 4, 8, 16

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# Value types: UINT8 INT8 UINT16 INT16 UINT32 INT32 FLOAT32 BOOL, then UINT64 INT64 FLOAT64.
_CODES = {**dict(enumerate("BbHhIif?")), 10: "Q", 11: "q", 12: "d"}
_NUMBERS = {value_type: struct.Struct(f"<{code}") for value_type, code in _CODES.items()}
_TYPE_STRING, _TYPE_ARRAY = 8, 9
# The longest chat templates have a tenth of these bytes.
_MAX_TEXT_BYTES = 1 << 18

# Tensor type: (values in a block, bytes of a block); GGML_QUANT_SIZES of gguf-py 0.19.
# fmt: off
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18), 42: (64, 18),
}
# fmt: on


class GgufError(Exception):
    """A file is not a whole GGUF. The message is the predicate of a sentence about the file."""


class PartError(GgufError):
    """A file is a part of a split model."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Header, mmap.mmap]]:
    """Open a GGUF file that has all tensors of its header; yields the header, read, and its bytes.

    Raises GgufError or OSError.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise GgufError("is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = Header(data)
            except (struct.error, IndexError) as error:
                raise GgufError(
                    f"is truncated: its header does not end in {len(data)} B"
                ) from error
            except KeyError as error:
                raise GgufError(f"is damaged: a value has the unknown type {error}") from error
            if len(data) < header.num_bytes:
                raise GgufError(f"is truncated: {len(data)} of {header.num_bytes} B")
            yield header, data


def check_gguf(path: Path) -> None:
    """Raise GgufError or OSError as opened() does, and PartError for a part of a split model."""
    with opened(path) as (header, _):
        count = header.texts.get("split.count", "0")
        if count not in ("0", "1"):
            raise PartError(f"is one of {count} parts of a model")


@dataclass(frozen=True, slots=True)
class Declared:
    """What a model file declares.

    blocks, model_hash: of a stage of a split model, what it has of the whole model, and the hash of
    that. has_head: whether it has a head for tokens after the next one; None for a kind without
    one. Files of such a kind may leave it out.
    """

    architecture: str
    traits: ModelTraits
    has_head: bool | None
    blocks: Blocks | None = None
    model_hash: str = ""


def declared_by(path: Path) -> Declared:
    """Return what a model file declares. Raises GgufError or OSError."""
    with opened(path) as (header, _):
        texts = header.texts
        architecture, has_head = texts.get("general.architecture", ""), None
        if texts.get(f"{architecture}.nextn_predict_layers", "0") != "0":
            has_head = any(".nextn." in tensor.name for tensor in header.tensors)
        traits = traits_of(lambda key: texts.get(key, ""))
        if MODEL_KEY not in texts:
            return Declared(architecture, traits, has_head)
        blocks = Blocks(*(int(texts.get(key, "0")) for key in (FIRST_KEY, END_KEY, COUNT_KEY)))
        return Declared(architecture, traits, False, blocks, texts[MODEL_KEY])


def vocabulary_of(path: Path) -> bytes:
    """Return a GGUF file with all keys of another one, and so its vocabulary, but no tensors.

    Raises GgufError or OSError.
    """
    with opened(path) as (header, data):
        return data[:_AT_NUM_TENSORS] + _U64.pack(0) + data[_AT_NUM_KEYS : header.keys_end]


@dataclass(frozen=True, slots=True)
class Key:
    """The place of a key's value, with the type of the value, from `start` to `end`.

    num_items, items_at: Of an array of numbers; otherwise there are 0.
    """

    name: bytes
    start: int
    end: int
    num_items: int
    items_at: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor and its place: its offset from the file's start, and blocks of block_bytes each.

    block_bytes: 0 for a type that is not in this module's table.
    """

    name: str
    offset: int
    dims: tuple[int, ...]
    type: int

    @property
    def num_values(self) -> int:
        return math.prod(self.dims)

    @property
    def num_blocks(self) -> int:
        return -(-self.num_values // _BLOCKS.get(self.type, (1, 0))[0])

    @property
    def block_bytes(self) -> int:
        return _BLOCKS.get(self.type, (1, 0))[1]


class Header:
    """Reads forward through a header.

    Raises struct.error or IndexError at the end of the file, and KeyError for an unknown type.
    num_bytes: The size that the file must have. keys: Their places. keys_end: The end of the keys.
    texts: The values of keys that are numbers or texts, without long ones.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = _AT_VERSION
        self.texts: dict[str, str] = {}
        version = self._u32()
        if version not in (2, 3):
            raise GgufError(f"is GGUF version {version}, but only 2 and 3 are supported")
        num_tensors = self._count("tensors", _MAX_TENSORS)
        num_keys = self._count("keys", _MAX_KEYS)
        alignment = 32
        self.keys: list[Key] = []
        for _ in range(num_keys):
            key, start = self._string(), self._at
            self._num_items = self._items_at = 0
            value = self._value(self._u32())
            self.keys.append(Key(key, start, self._at, self._num_items, self._items_at))
            if isinstance(value, int):
                _check_bounds(key, value)
            if key == b"general.alignment" and isinstance(value, int):
                alignment = value
            elif value != "":
                self.texts[key.decode("utf-8", "replace")] = str(value)
        self.keys_end = self._at
        tensors = [self._tensor() for _ in range(num_tensors)]
        if alignment == 0 or alignment & (alignment - 1):
            raise GgufError(f"is damaged: alignment {alignment} is not a power of two")
        start = -(-self._at // alignment) * alignment
        self.tensors = [replace(tensor, offset=start + tensor.offset) for tensor in tensors]
        ends = (each.offset + each.num_blocks * each.block_bytes for each in self.tensors)
        self.num_bytes = max(ends, default=self._at)

    def _u32(self) -> int:
        return int(self._next(_U32))

    def _u64(self) -> int:
        return int(self._next(_U64))

    def _next(self, kind: struct.Struct) -> Any:
        (value,) = kind.unpack_from(self._data, self._at)
        self._at += kind.size
        return value

    def _count(self, what: str, limit: int) -> int:
        value = self._u64()
        if value > limit:
            raise GgufError(f"is damaged: {value} {what}, at most {limit} are possible")
        return value

    def _skip(self, num_bytes: int) -> None:
        self._at += num_bytes
        if self._at > len(self._data):
            raise IndexError

    def _string(self) -> bytes:
        num_bytes = self._u64()
        if num_bytes > _MAX_KEY_BYTES:
            raise GgufError(f"is damaged: a name has {num_bytes} B")
        start = self._at
        self._skip(num_bytes)
        return self._data[start : self._at]

    def _value(self, value_type: int) -> int | float | str:
        """Read a value; returns "" for an array and for a long text."""
        if value_type == _TYPE_ARRAY:
            self._skip_array()
        elif value_type == _TYPE_STRING:
            num_bytes, start = self._u64(), self._at
            self._skip(num_bytes)
            if num_bytes <= _MAX_TEXT_BYTES:
                return self._data[start : self._at].decode("utf-8", "replace")
        else:
            number: int | float = self._next(_NUMBERS[value_type])
            return number
        return ""

    def _skip_array(self) -> None:
        item_type = self._u32()
        num_items = self._count("items in an array", _MAX_ARRAY_ITEMS)
        if item_type != _TYPE_STRING:
            self._num_items, self._items_at = num_items, self._at
            self._skip(num_items * _NUMBERS[item_type].size)
            return
        # A vocabulary takes hundreds of thousands of iterations, so the names are local.
        data, at, end, unpack = self._data, self._at, len(self._data), _U64.unpack_from
        for _ in range(num_items):
            at += 8 + unpack(data, at)[0]
            if at > end:
                raise IndexError
        self._at = at

    def _tensor(self) -> Tensor:
        """Read the next tensor; its offset counts from the start of the tensor data."""
        name = self._string().decode("utf-8", "replace")
        num_dimensions = self._u32()
        if num_dimensions > _MAX_DIMENSIONS:
            raise GgufError(f"is damaged: a tensor has {num_dimensions} dimensions")
        dims = tuple(self._u64() for _ in range(num_dimensions))
        tensor_type, offset = self._u32(), self._u64()
        # For a type that is newer than the table the offset is still checked.
        return Tensor(name, offset, dims, tensor_type)


def _check_bounds(key: bytes, value: int) -> None:
    architecture, dot, name = key.partition(b".")
    low, high = _BOUNDS.get(dot + name, (value, value))
    if architecture in _RECURRENT and dot + name in _MAY_BE_LACKING:
        low = 0
    if not low <= value <= high:
        where = key.decode("ascii", "replace")
        raise GgufError(f"is damaged: {where} is {value}, {low} to {high} is possible")
