"""Where models can be cut into stages, which depends on how their blocks differ.

A stage numbers its blocks from 0, and libllama takes some of their properties from that number. It
also wants blocks of each kind that the architecture has. So some models can be cut at some places
only. Only architectures are here of which random models had the bits of the whole model in stages.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from airdraft.nodes.catalog.errors import CatalogError
from airdraft.nodes.catalog.gguf import Header, opened
from airdraft.nodes.engine.metadata import MODEL_KEY, Blocks

_ALIKE: Final = (
    *("arcee", "bailingmoe", "command-r", "dots1", "ernie4_5", "ernie4_5-moe", "exaone"),
    *("falcon-h1", "glm4", "glm4moe", "granite", "granitemoe", "hunyuan-dense", "hunyuan-moe"),
    *("internlm2", "llama", "minimax-m2", "mistral3", "nemotron", "olmo", "olmoe", "phi3"),
    *("qwen2", "qwen2moe", "qwen3", "qwen3moe", "seed_oss", "stablelm", "starcoder2"),
)
# Every n-th block is of another kind, by its number. The key says n, if the file has it.
_PERIODS: Final = {
    "gpt-oss": ("attention.sliding_window_pattern", 2),
    "qwen35": ("full_attention_interval", 4),
    "qwen35moe": ("full_attention_interval", 4),
    "qwen3next": ("full_attention_interval", 4),
    "smollm3": ("", 4),
}
# Blocks without heads of keys are recurrent, but in some models they may be networks alone.
_BY_HEADS: Final = (
    *("granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe"),
)
_WITH_OTHERS: Final = ("nemotron_h", "nemotron_h_moe")
_INT32: Final = struct.Struct("<i")


class CutError(CatalogError):
    """A model cannot be cut like that. The message is one line for the user."""


def possible_cuts(path: Path) -> tuple[list[int], int]:
    """Returns the blocks before which a model can be cut, and how many blocks it has.

    Raises CutError, GgufError or OSError.
    """
    with opened(path) as (header, data):
        architecture = header.texts.get("general.architecture", "")
        if architecture not in {*_ALIKE, *_PERIODS, *_BY_HEADS}:
            raise CutError(f"{path.name}: models of the kind {architecture} cannot be split yet")
        if MODEL_KEY in header.texts:
            raise CutError(f"{path.name} is a stage already")
        count = int(header.texts[f"{architecture}.block_count"])
        # Heads that guess are blocks at the end.
        num_layers = count - int(header.texts.get(f"{architecture}.nextn_predict_layers", 0))
        if architecture in _BY_HEADS:
            heads = _numbers(header, data, f"{architecture}.attention.head_count_kv")
            inner = [0] * len(heads)
            if architecture in _WITH_OTHERS:
                inner = _numbers(header, data, f"{architecture}.feed_forward_length")
            kinds = list(zip(heads, inner, strict=False))[:num_layers]
            return _between_kinds(kinds), count
        name, default = _PERIODS.get(architecture, ("", 1))
        period = int(header.texts.get(f"{architecture}.{name}", default))
        return list(range(period, num_layers, period)), count


def parts_of(path: Path, cuts: Sequence[int]) -> list[Blocks]:
    """Returns the stages of a model that is cut before these blocks.

    Raises CutError, GgufError or OSError.
    """
    possible, count = possible_cuts(path)
    bounds = [0, *cuts, count]
    if any(low >= high for low, high in pairwise(bounds)) or not set(cuts) <= set(possible):
        told = ", ".join(map(str, cuts))
        raise CutError(f"cuts at {told}: rising numbers of {_told(possible)} are accepted")
    return [Blocks(first, end, count) for first, end in pairwise(bounds)]


def _told(numbers: Sequence[int]) -> str:
    """Returns numbers in words, of many in a row the first and the last one."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers)) or "no block"


def _numbers(header: Header, data: mmap.mmap, name: str) -> list[int]:
    """Returns the number of each block that a key has; [] if it is not there or has one for all."""
    for key in header.keys:
        if key.name == name.encode() and key.num_items:
            ends = range(key.items_at, key.items_at + _INT32.size * key.num_items, _INT32.size)
            return [int(_INT32.unpack_from(data, at)[0]) for at in ends]
    return []


def _between_kinds(blocks: Sequence[tuple[int, int]]) -> list[int]:
    """Returns cuts such that each part has blocks with attention and recurrent ones.

    blocks: of each its heads, and the width of its network if it has nothing else.
    """
    found, kinds = list[int](), set[bool]()
    for number, (heads, inner) in enumerate(blocks, start=1):
        if heads or not inner:
            kinds.add(heads > 0)
        if len(kinds) == 2:
            found.append(number)
            kinds.clear()
    # The blocks behind the last of these belong to the part before it, which may be the whole.
    return found[:-1]
