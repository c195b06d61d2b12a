"""A file of some blocks of a model without their weights, to measure passes on other machines.

What a pass takes does not depend on the values of weights, so machines that lack the model need no
more than the header of such a file, which has a few KB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from airdraft.nodes.catalog.gguf import opened
from airdraft.nodes.catalog.stages import file_header, layers_of, stage_keys, stage_tensors
from airdraft.nodes.engine.metadata import Blocks

# More than the caches of most processors hold, since passes of a whole model read it from memory.
_LEAST_BYTES: Final = 256_000_000
_F32: Final = 0
_NOISE: Final = np.random.default_rng(1).standard_normal(1 << 18, np.float32).tobytes()


@dataclass(frozen=True, slots=True)
class Sample:
    """The form of some blocks. header: of their file. file_bytes: all bytes of it. block_bytes:
    those of the blocks, which passes read."""

    header: bytes
    file_bytes: int
    block_bytes: int


def sample_of(path: Path, model_hash: str) -> Sample:
    """Returns the form of some blocks in the middle of a model.

    Raises CutError, also if the model cannot be cut, GgufError or OSError.
    """
    layers = layers_of(path)
    bounds = [0, *layers.cuts]
    low = max(0, len(bounds) // 2 - 1)
    high = min(low + 1, len(bounds) - 1)
    while sum(layers.sizes[bounds[low] : bounds[high]]) < _LEAST_BYTES:
        if high + 1 < len(bounds):
            high += 1
        elif low > 0:
            low -= 1
        else:
            break
    part = Blocks(bounds[low], bounds[high], len(layers.sizes))
    with opened(path) as (header, data):
        keys = stage_keys(header, data, part, path.name, model_hash)
        begin, num_bytes = file_header(keys, list(stage_tensors(header, part)))
    return Sample(begin, len(begin) + num_bytes, sum(layers.sizes[part.first : part.end]))


def write_sample(header: bytes, file_bytes: int, file: Path) -> None:
    """Write a file of a sample's form. Raises GgufError or OSError.

    Matrices are zero, which takes no room on the disk. Numbers of 32 bits are noise, so that each
    token chooses other experts.
    """
    with file.open("wb") as out:
        out.write(header)
        out.truncate(file_bytes)
        out.flush()
        with opened(file) as (found, _):
            for tensor in found.tensors:
                if tensor.type == _F32:
                    _fill(out, tensor.offset, 4 * tensor.num_values)


def _fill(out: BinaryIO, at: int, num_bytes: int) -> None:
    out.seek(at)
    for done in range(0, num_bytes, len(_NOISE)):
        out.write(_NOISE[: num_bytes - done])
