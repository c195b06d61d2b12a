"""Cuts a model file into the files of its stages, each of which has some of its blocks of layers.

A model that no single machine can hold runs on several. Each runs a stage: a model file of its own,
which takes rows (one for each token) from the stage before and gives rows to the next one. The last
stage has the vocabulary, the embedding and the output layer; the others have blocks alone.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import airdraft.nodes.catalog.disk as disk
from airdraft.nodes.catalog.cuts import CutError, parts_of, possible_cuts
from airdraft.nodes.catalog.fetch import ProgressCallback
from airdraft.nodes.catalog.gguf import Header, Key, Tensor, opened
from airdraft.nodes.engine.metadata import (
    COUNT_KEY,
    END_KEY,
    FIRST_KEY,
    MODEL_KEY,
    NAME_KEY,
    Blocks,
)
from airdraft.nodes.engine.split.embedding import Table
from airdraft.policies.latency import CostTable
from airdraft.policies.layers import Layers, Machine, cuts_for

# A stage without vocabulary computes the logits of so many tokens, so that they cost nothing.
_NUM_VOCAB: Final = 32
_ALIGNMENT: Final = 32
_PIECE: Final = 1 << 22
# Enough of a hash to tell models of the same name apart.
_HASH_CHARS: Final = 16
_U64: Final = struct.Struct("<Q")
# Types of values, and of a tensor.
_UINT32, _FLOAT32, _STRING, _F32 = 4, 6, 8, 0
# How a user names a part of a model.
_PART: Final = re.compile(r"(\d{1,4})([/-])(\d{1,4})")
_PART_WORDS: Final = "1/2 for the first of two parts, or 0-14 for blocks 0 to 13, is accepted"
# Machines of which only their number is known.
_ALIKE: Final = CostTable((1,), (1.0,))
# Arrays that may be as long as there are blocks, but have no item for each.
_OTHER_ARRAYS: Final = (".rope.dimension_sections",)


def part_named(path: Path, text: str) -> Blocks:
    """Returns the blocks of a part: `K/N` is the K-th of N equal machines, or `FIRST-END`.

    Raises CutError, GgufError or OSError.
    """
    if (found := _PART.fullmatch(text)) is None:
        raise CutError(f"part {text!r}: {_PART_WORDS}")
    first, end = int(found[1]), int(found[3])
    if found[2] == "/":
        parts = parts_of(path, even_cuts(path, end))
        if not 1 <= first <= end:
            raise CutError(f"part {text}: {_PART_WORDS}")
        return parts[first - 1]
    _, count = possible_cuts(path)
    if not 0 <= first < end <= count or (first, end) == (0, count):
        raise CutError(f"part {text}: {path.name} has {count} blocks, of which a part has fewer")
    parts = parts_of(path, [cut for cut in (first, end) if cut not in (0, count)])
    return next(part for part in parts if part.first == first)


def part_file(
    path: Path, text: str, model_hash: str, folder: Path, progress: ProgressCallback
) -> Path:
    """Returns the file of a part, as part_named() has it; it is written if it is not there yet.

    model_hash: That of the whole file. Raises CutError, GgufError or OSError.
    """
    part = part_named(path, text)
    out = part_path(folder, model_hash, part_name(path, part.first, part.end))
    if not out.exists():
        write_stage(path, part, model_hash, out, progress)
    return out


def part_name(path: Path, first: int, end: int) -> str:
    """Returns the name of the file of a model's blocks `first` to before `end`."""
    return f"{path.stem}-{first}-{end}.gguf"


def part_path(folder: Path, model_hash: str, name: str) -> Path:
    """Returns where the file of a part is below the folder of parts."""
    return folder / model_hash[:_HASH_CHARS] / name


def kept_parts(folder: Path) -> list[Path]:
    """Returns the files of parts below their folder, those that are still being sent, too."""
    return sorted(each for each in folder.glob("*/*") if ".gguf" in each.name)


def even_cuts(path: Path, count: int) -> list[int]:
    """Returns where to cut a model for so many machines that are alike.

    Raises CutError for more stages than blocks, GgufError or OSError.
    """
    layers = layers_of(path)
    cuts = cuts_for(layers, [Machine(math.inf, _ALIKE)] * count) if count > 1 else []
    if not cuts:
        most = 1 + len(layers.cuts)
        raise CutError(f"{count} stages: {path.name} can have 2 to {most}")
    return cuts


def layers_of(path: Path) -> Layers:
    """Returns the bytes that a step reads of each block and of the output layer.

    Raises CutError, GgufError or OSError.
    """
    cuts, count = possible_cuts(path)
    sizes, head = [0] * count, 0
    with opened(path) as (header, _):
        # The embedding is read only if it is the output layer, too.
        has_output = any(tensor.name == "output.weight" for tensor in header.tensors)
        for tensor in header.tensors:
            num_bytes = tensor.num_blocks * tensor.block_bytes
            if tensor.name.startswith("blk."):
                sizes[int(tensor.name.split(".")[1])] += num_bytes
            elif tensor.name != "token_embd.weight" or not has_output:
                head += num_bytes
    return Layers(sizes, head, cuts)


def write_stage(
    path: Path, part: Blocks, model_hash: str, out: Path, progress: ProgressCallback
) -> None:
    """Write the file of one stage; only a few MB of the model are in memory at a time.

    model_hash: That of the whole file. Raises GgufError or OSError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f"{out.name}.part")
    try:
        with opened(path) as (header, data), made.open("wb") as file:
            keys = stage_keys(header, data, part, path.name, model_hash)
            tensors = list(stage_tensors(header, part))
            _write(file, data, keys, tensors, partial(progress, out.name))
        disk.sync(made)
        os.replace(made, out)
    finally:
        made.unlink(missing_ok=True)


def embedding_of(path: Path) -> Table:
    """Returns the place of the embedding in a file. Raises GgufError or OSError."""
    with opened(path) as (header, _):
        found = next(each for each in header.tensors if each.name == "token_embd.weight")
        width, num_rows = found.dims
        row_bytes = found.num_blocks * found.block_bytes // num_rows
        return Table(path, found.offset, found.type, width, num_rows, row_bytes)


# -- keys ------------------------------------------------------------------------------------------


def stage_keys(
    header: Header, data: mmap.mmap, part: Blocks, name: str, model_hash: str
) -> list[bytes]:
    """Returns the keys of a stage's file. name, model_hash: of the whole model."""
    return [*_keys(header, data, part), *_own_keys(name, part, model_hash)]


def _keys(header: Header, data: mmap.mmap, part: Blocks) -> Iterator[bytes]:
    """Yield the whole model's keys as the stage has them."""
    architecture = header.texts["general.architecture"]
    for key in header.keys:
        name = key.name.decode("utf-8", "replace")
        if name.startswith("tokenizer.") and not part.are_last:
            continue
        if name.startswith("split.") or name == "general.alignment":
            continue
        if name == f"{architecture}.vocab_size" and not part.are_last:
            continue
        field = name.removeprefix(f"{architecture}.")
        if field == "block_count":
            yield _uint32(name, part.end - part.first)
        elif field == "leading_dense_block_count":
            leading = int(header.texts[name]) - part.first
            yield _uint32(name, min(max(leading, 0), part.end - part.first))
        elif field == "nextn_predict_layers" and not part.are_last:
            yield _uint32(name, 0)
        elif field == "embedding_scale" and part.first:
            # The first stage has scaled the rows.
            yield _packed(key.name) + struct.pack("<If", _FLOAT32, 0.0)
        elif key.num_items == part.count and not name.endswith(_OTHER_ARRAYS):
            yield _sliced(key, data, part)
        else:
            yield _packed(key.name) + data[key.start : key.end]
    if not part.are_last:
        yield _text("tokenizer.ggml.model", "no_vocab")
        yield _uint32(f"{architecture}.vocab_size", _NUM_VOCAB)


def _own_keys(name: str, part: Blocks, model_hash: str) -> Iterator[bytes]:
    yield _text(NAME_KEY, name)
    yield _text(MODEL_KEY, model_hash)
    for key, value in ((FIRST_KEY, part.first), (END_KEY, part.end), (COUNT_KEY, part.count)):
        yield _uint32(key, value)


def _sliced(key: Key, data: mmap.mmap, part: Blocks) -> bytes:
    """Returns an array that has a number for each block with those of the stage's blocks alone."""
    size = (key.end - key.items_at) // key.num_items
    items = data[key.items_at + part.first * size : key.items_at + part.end * size]
    # The types of the value and of its items, and then how many there are.
    types = data[key.start : key.items_at - _U64.size]
    return _packed(key.name) + types + _U64.pack(part.end - part.first) + items


def _packed(text: bytes) -> bytes:
    return _U64.pack(len(text)) + text


def _uint32(name: str, value: int) -> bytes:
    return _packed(name.encode()) + struct.pack("<II", _UINT32, value)


def _text(name: str, text: str) -> bytes:
    return _packed(name.encode()) + struct.pack("<I", _STRING) + _packed(text.encode())


# -- tensors ---------------------------------------------------------------------------------------


def stage_tensors(header: Header, part: Blocks) -> Iterator[Tensor]:
    """Yield the stage's tensors; those at offset 0 are zeros that nobody reads."""
    for tensor in header.tensors:
        prefix, _, rest = tensor.name.partition(".")
        number, _, suffix = rest.partition(".")
        if prefix == "blk":
            if part.first <= int(number) < part.end:
                yield replace(tensor, name=f"blk.{int(number) - part.first}.{suffix}")
        elif tensor.name in ("token_embd.weight", "output.weight") and not part.are_last:
            yield Tensor(tensor.name, 0, (tensor.dims[0], _NUM_VOCAB), _F32)
        elif tensor.name == "output.bias" and not part.are_last:
            yield Tensor(tensor.name, 0, (_NUM_VOCAB,), _F32)
        else:
            # The last norm and factors of positions are small, and libllama wants them.
            yield tensor


def file_header(keys: Sequence[bytes], tensors: Sequence[Tensor]) -> tuple[bytes, int]:
    """Returns a model file up to its tensors, and how many bytes these take."""
    infos, end = list[bytes](), 0
    for tensor in tensors:
        dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        infos.append(_packed(tensor.name.encode()) + dims + struct.pack("<IQ", tensor.type, end))
        end = _aligned(end + tensor.num_blocks * tensor.block_bytes)
    counts = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    text = b"".join([counts, *keys, *infos])
    return text.ljust(_aligned(len(text)), b"\0"), end


def _write(
    file: BinaryIO,
    data: mmap.mmap,
    keys: Sequence[bytes],
    tensors: Sequence[Tensor],
    report: Callable[[int, int], None],
) -> None:
    """Write a model file. data: The file that has the tensors. report: Gets bytes, done and all."""
    header, end = file_header(keys, tensors)
    file.write(header)
    for tensor in tensors:
        file.seek(_aligned(file.tell()))
        num_bytes = tensor.num_blocks * tensor.block_bytes
        if not tensor.offset:
            # A hole in the file takes no place on the disk.
            file.seek(num_bytes, os.SEEK_CUR)
            continue
        for at in range(tensor.offset, tensor.offset + num_bytes, _PIECE):
            file.write(data[at : min(at + _PIECE, tensor.offset + num_bytes)])
            report(file.tell(), end)
    file.truncate(_aligned(file.tell()))


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT
