"""Numbers that many long lists have in common, kept once.

Python makes a new object of 28 bytes for each number above 256 that it reads. Token ids come by
the hundred thousand, and there are only as many different ones as a vocabulary has tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Larger than any vocabulary that is common; all of them take 9 MB.
_MAX_SHARED: Final = 1 << 18
# Of fewer there is nothing to save.
_LEAST: Final = 64

_numbers: list[int] = []


def shared(values: Sequence[int]) -> tuple[int, ...]:
    """The same values, none of them negative, as 8 bytes each instead of 36."""
    if len(values) < _LEAST:
        return tuple(values)
    most = min(max(values), _MAX_SHARED - 1)
    # Two threads may both make it longer, of which one has no effect.
    if most >= len(_numbers):
        _numbers[len(_numbers) :] = range(len(_numbers), most + 1)
    known = len(_numbers)
    return tuple([_numbers[value] if value < known else value for value in values])
