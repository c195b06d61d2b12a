"""Compact copies of draft models, with all weights in four bits. Texts do not depend on them.

A step of a draft reads all its weights once and is limited by memory bandwidth, so a smaller file
guesses faster. A copy is compact/HASH/NAME under the cache folder. It is complete, because it gets
its name last.
"""

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Final

import airdraft.nodes.catalog.disk as disk
from airdraft.nodes.catalog.errors import CatalogError
from airdraft.nodes.catalog.fetch import ProgressCallback, Quantize, quantize_in_child, watched
from airdraft.nodes.catalog.gguf import GgufError, check_gguf, opened

logger = logging.getLogger(__name__)

FORM: Final = "Q4_0 all"
# Q4_0: 32 values in 18 bytes.
_BYTES_A_VALUE: Final = 18 / 32
# A copy is made if a step reads at most this fraction of the original's bytes. The copy of
# Qwen2.5-Coder 0.5B in Q4_K_M, whose widths are not multiples of 256, has 0.72 of them; copies of
# 7B models in Q4_K_M would have 0.93.
_MOST_FRACTION: Final = 0.85
# With four bits small models lose as much acceptance as their steps gain in speed. SmolLM2-135M in
# Q8_0 (145 MB) gave a target of 1.5B as many tokens a second as its copy. The copy of Qwen2.5-Coder
# 0.5B, of which a step reads 370 MB, gave it 1.1 to 1.3 times as many as the original.
_LEAST_BYTES: Final = 200_000_000
# Each copy is about as large as its draft, and more drafts than this are rarely in use.
_MOST_COPIES: Final = 4


def compact_copy(
    path: Path,
    model_hash: str,
    root: Path,
    progress: ProgressCallback | None = None,
    *,
    quantize: Quantize = quantize_in_child,
) -> tuple[Path, str]:
    """Return the compact copy of a model file and the hash under which the node announces it.

    It is made first if it does not exist. Returns the file itself and its own hash if a copy is not
    worth it or cannot be made. root: The cache folder. model_hash: That of the file.
    """
    if not _is_worth_it(path):
        return path, model_hash
    folder = root / "compact"
    # The hash that the copy goes by.
    copy_hash = hashlib.sha256(f"{model_hash} {FORM}".encode()).hexdigest()
    copy = folder / copy_hash[:16] / path.name
    try:
        if not _is_whole(copy):
            report = progress or (lambda *_: None)
            with disk.locked(folder, report):
                if not _is_whole(copy):
                    _make(path, copy, report, quantize)
                    _remove_oldest(folder)
        os.utime(copy.parent)
    except (OSError, CatalogError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        logger.warning(
            "no compact copy of %s can be made, the file is used as it is: %s", path.name, reason
        )
        return path, model_hash
    return copy, copy_hash


def _is_worth_it(path: Path) -> bool:
    """Whether a step with a copy would read far fewer bytes."""
    with opened(path) as (header, _):
        tensors = header.tensors
    names = {tensor.name for tensor in tensors}
    # A step reads one row of the embedding, unless the same tensor is the output matrix.
    skipped = {"token_embd.weight"} if "output.weight" in names else set()
    read = [tensor for tensor in tensors if tensor.name not in skipped]
    num_bytes = sum(tensor.num_blocks * tensor.block_bytes for tensor in read)
    compact = _BYTES_A_VALUE * sum(tensor.num_values for tensor in read)
    return num_bytes >= _LEAST_BYTES and compact <= _MOST_FRACTION * num_bytes


def _is_whole(copy: Path) -> bool:
    try:
        check_gguf(copy)
    except (OSError, GgufError):
        return False
    return True


def _make(path: Path, copy: Path, report: ProgressCallback, quantize: Quantize) -> None:
    label, total = f"compact copy of {path.stem}", path.stat().st_size
    if shutil.disk_usage(copy.parents[1]).free < total:
        raise CatalogError("the disk of the cache folder is nearly full")
    with disk.workspace(copy.parents[1]) as folder:
        made = folder / copy.name
        with watched(made, lambda done: report(label, min(done, total), total)):
            quantize(path, made, FORM)
        disk.sync(made)
        copy.parent.mkdir(exist_ok=True)
        os.replace(made, copy)


def _remove_oldest(folder: Path) -> None:
    copies = sorted(
        (each for each in folder.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime
    )
    for each in copies[:-_MOST_COPIES]:
        shutil.rmtree(each, ignore_errors=True)
