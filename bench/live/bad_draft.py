"""A draft model that is wrong, but as fast and confident as another: plans must cope with it."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from nodes.catalog.gguf import Header


def write_bad_draft(source: Path, made: Path, seed: int = 1) -> None:
    """Copy a draft's GGUF and shuffle the blocks of weights inside each matrix.

    Blocks of quantised weights stay whole, so that all weights keep plausible values.
    """
    made.write_bytes(source.read_bytes())
    random = np.random.default_rng(seed)
    with made.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        header = Header(data)
        header.file_bytes()
        for tensor in header.tensors():
            # Norms stay as they are.
            if not tensor.name.endswith("weight") or "norm" in tensor.name:
                continue
            end = tensor.offset + tensor.num_blocks * tensor.block_bytes
            blocks = np.frombuffer(data[tensor.offset : end], dtype=np.uint8)
            blocks = blocks.reshape(tensor.num_blocks, tensor.block_bytes)
            data[tensor.offset : end] = blocks[random.permutation(tensor.num_blocks)].tobytes()
