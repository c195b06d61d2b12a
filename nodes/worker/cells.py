"""The number of cells of the KV cache that admission counts for a stream."""

from __future__ import annotations

from nodes.messages import MAX_GAMMA
from nodes.worker.stream import StreamSpec

# A stream is admitted if it has room for this many further tokens. With fewer it would soon be
# parked again; with more, cells would be reserved for tokens that may never come.
_GROWTH_TOKENS = 64


def cells_soon(num_tokens: int, tokens_left: int) -> int:
    """Returns the cells that admission counts for a stream: its tokens, some growth, guesses."""
    return num_tokens + min(tokens_left, _GROWTH_TOKENS) + MAX_GAMMA


def cells_needed(spec: StreamSpec) -> int:
    """Returns the most cells that a stream may ever hold: prompt, output, and guesses of a pass."""
    return spec.num_prompt_tokens + spec.max_tokens + MAX_GAMMA
