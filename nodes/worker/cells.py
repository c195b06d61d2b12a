"""How many cells of the KV cache a stream takes, for admission."""

from __future__ import annotations

from nodes.messages import MAX_GAMMA
from nodes.worker.stream import StreamSpec

# Room that a stream must have to grow before it is taken in: fewer and it would soon be parked
# again, more and cells would wait for tokens that may never come.
_GROWTH_TOKENS = 64


def cells_soon(num_tokens: int, tokens_left: int) -> int:
    """Cells that admission counts for a stream: what it has, some growth, guesses."""
    return num_tokens + min(tokens_left, _GROWTH_TOKENS) + MAX_GAMMA


def cells_needed(spec: StreamSpec) -> int:
    """Cells a stream may come to hold: prompt, output, and guesses under verification."""
    return spec.num_prompt_tokens + spec.max_tokens + MAX_GAMMA
