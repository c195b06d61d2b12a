"""Shares the int objects of long lists, to save memory.

Python creates a new object of 28 bytes for each number above 256 that it decodes. Messages bring
hundreds of thousands of token ids, but only as many different ones as a vocabulary has tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Larger than any common vocabulary; a peer that sends more different numbers fills no memory.
_MAX_SHARED: Final = 1 << 18
# Sharing saves nothing for shorter lists.
_LEAST: Final = 64

_numbers: dict[int, int] = {}


def shared(values: Sequence[int]) -> tuple[int, ...]:
    """Returns the same ints (no bools), which then take 8 bytes each instead of 36."""
    if len(values) < _LEAST:
        return tuple(values)
    if len(_numbers) > _MAX_SHARED:
        _numbers.clear()
    # Threads may do this at the same time, because each call of setdefault is atomic.
    return tuple(map(_numbers.setdefault, values, values))
