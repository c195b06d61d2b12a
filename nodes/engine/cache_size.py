"""How many cells a model's cache has, and may come to have.

A cache begins small and doubles when it has to, so a large limit costs no memory before long texts
come. Without a limit of the user's it is what the free memory allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from airdraft.nodes.engine.cores import available_memory

# A cache takes at most this share of the memory that is free when the model is opened: the prefixes
# of ended texts, a draft model, and other programs need some.
_MOST_OF_FREE: Final = 0.5
# The memory that a growing cache leaves to others.
_LEFT_BYTES: Final = 256 << 20
# libllama makes the number of cells a multiple of this.
_MULTIPLE: Final = 256
# A look at the free memory takes 75 us, and is not repeated for so many seconds.
_LOOK_EVERY_S: Final = 1.0


class CacheSize:
    """The sizes of one cache, in cells.

    now: What it has. limit: What it may come to have; 0 for what the free memory allows, but not
    more than `most`. cell_bytes: The memory of one; 0 if it is not worth counting.
    """

    def __init__(
        self,
        now: int,
        limit: int,
        most: int,
        cell_bytes: int,
        free_bytes: Callable[[], int] = available_memory,
    ) -> None:
        if not limit:
            fitting = int(_MOST_OF_FREE * free_bytes() / cell_bytes) if cell_bytes else most
            limit = min(most, fitting)
        self.now, self.cell_bytes = now, cell_bytes
        # libllama rounds up.
        self.limit = max(now, -(-limit // _MULTIPLE) * _MULTIPLE)
        self._free_bytes = free_bytes
        self._seen, self._seen_at = 0, float("-inf")

    def most(self, num_live: int) -> int:
        """Returns how many cells it can come to have now.

        num_live: Cells in use. A growing cache is copied, so they take their memory twice.
        """
        if self.now == self.limit or not self.cell_bytes:
            return self.limit
        if time.monotonic() > self._seen_at + _LOOK_EVERY_S:
            self._seen, self._seen_at = self._free_bytes(), time.monotonic()
        more = (self._seen - _LEFT_BYTES) // self.cell_bytes - num_live
        return max(self.now, min(self.limit, self.now + more))

    def for_wanted(self, num_wanted: int, num_live: int) -> int:
        """Returns the cells that it should have to hold num_wanted.

        It grows as soon as they are more than half of it: otherwise garbage would soon have to be
        cleared away again.
        """
        if 2 * num_wanted <= self.now:
            return self.now
        return min(self.most(num_live), max(2 * self.now, num_wanted))


def first_cells(first: int, limit: int, original_context: int) -> int:
    """Returns the cells that a cache begins with. limit: As LlamaConfig.num_cells.

    original_context: If a cache may come to have more cells than this it has more from the start,
    since the model has other positions then.
    """
    first = max(first, original_context + 1)
    return min(first, limit) if limit else first
