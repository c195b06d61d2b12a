"""Compares the beginnings of texts."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of tokens at the beginning that two texts have in common."""
    low, high = 0, min(len(a), len(b))
    # Slices are compared in C, so for long prompts a binary search is faster than a loop.
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
