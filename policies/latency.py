"""What a pass of a node costs, as measured: tables with interpolation, never a straight line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of one pass by its number of tokens, measured at `sizes` (ascending).

    per_cell_s: extra seconds for each used cell and token of the pass.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    per_cell_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.seconds):
            raise ValueError("a cost table needs as many times as sizes, and at least one")
        if any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"sizes {self.sizes} are not ascending")
        if self.sizes[0] < 1:
            raise ValueError("a pass has at least one token")
        # Written so that NaN is refused too: tables come from peers and from files.
        if not all(0 < seconds < math.inf for seconds in self.seconds):
            raise ValueError("a pass takes a positive time")
        if not 0 <= self.per_cell_s < math.inf:
            raise ValueError("a used cell costs no less than nothing")

    def at(self, num_tokens: int, used_cells: int = 0) -> float:
        """Seconds of a pass of num_tokens with used_cells in the cache.

        Between measured sizes linear; beyond the last one in proportion to the last slope.
        """
        extra = self.per_cell_s * used_cells * num_tokens
        sizes, seconds = self.sizes, self.seconds
        if num_tokens > sizes[-1]:
            slope = seconds[-1] / sizes[-1]
            if len(sizes) > 1:
                slope = max(0.0, (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
            return seconds[-1] + slope * (num_tokens - sizes[-1]) + extra
        return float(np.interp(num_tokens, sizes, seconds)) + extra


@dataclass(frozen=True, slots=True)
class NodeCosts:
    """The measured costs of one node: `decode` by tokens with logits, `prefill` without."""

    decode: CostTable
    prefill: CostTable


def median(values: Sequence[float]) -> float:
    """Median of at least one value."""
    return float(np.median(np.asarray(values, dtype=np.float64)))
