"""Shares the int objects of long lists, to save memory.

Python creates a new object of 28 bytes for each number above 256 that it decodes. Messages bring
hundreds of thousands of token ids, but only as many different ones as a vocabulary has tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

# Larger than any common vocabulary; all these numbers take 9 MB.
_MAX_SHARED: Final = 1 << 18
# Sharing saves nothing for shorter lists.
_LEAST: Final = 64

_numbers: list[int] = []
# Clients of one program may run in several threads.
_extending = threading.Lock()


def shared(values: Sequence[int]) -> tuple[int, ...]:
    """Return the same non-negative values, which then take 8 bytes each instead of 36."""
    if len(values) < _LEAST:
        return tuple(values)
    most = min(max(values), _MAX_SHARED - 1)
    if most >= len(_numbers):
        with _extending:
            _numbers.extend(range(len(_numbers), most + 1))
    known = len(_numbers)
    return tuple([_numbers[value] if value < known else value for value in values])
