"""Measured costs of a node's passes: tables with interpolation instead of a straight line."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

# Weight of a new pass in an average over passes: it spans about 20 of them.
PASS_RATE = 0.05
# One pass counts as at most this ratio of observed to predicted time, so that a stall (a machine
# that is suspended, a model that is read from the disk again) changes little.
MAX_RATIO = 4.0
# No table is corrected by more than this factor in all.
_MAX_FACTOR = 16.0


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of one pass by its number of tokens, measured at `sizes` (ascending).

    per_cell_s: extra seconds for each token of the pass and used cell. per_own_cell_s: extra
    seconds for each token and cell of its own sequence; cells of others are only skipped.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    per_cell_s: float = 0.0
    per_own_cell_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.seconds):
            raise ValueError("a cost table needs as many times as sizes, and at least one")
        if any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"sizes {self.sizes} are not ascending")
        if self.sizes[0] < 1:
            raise ValueError("the sizes of a cost table must be at least 1")
        # These comparisons also refuse NaN, because tables come from peers and from files.
        if not all(0 < seconds < math.inf for seconds in self.seconds):
            raise ValueError("the seconds of a pass must be positive and finite")
        if not (0 <= self.per_cell_s < math.inf and 0 <= self.per_own_cell_s < math.inf):
            raise ValueError("the seconds of a cell must be finite and not negative")

    def at(self, num_tokens: float, used_cells: int = 0, own_cells: float = 0.0) -> float:
        """Returns the seconds of a pass of num_tokens, which may be a mean.

        used_cells: used cells of the cache. own_cells: cells of a token's own sequence, on average
        over the tokens. Linear between measured sizes; the last slope continues beyond them.
        """
        extra = self.cells_s(used_cells, own_cells) * num_tokens
        sizes, seconds = self.sizes, self.seconds
        if num_tokens > sizes[-1]:
            slope = seconds[-1] / sizes[-1]
            if len(sizes) > 1:
                slope = max(0.0, (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
            return seconds[-1] + slope * (num_tokens - sizes[-1]) + extra
        above = bisect.bisect_left(sizes, num_tokens)
        if above == 0 or sizes[above] == num_tokens:
            return seconds[above] + extra
        # For one number this is four times as fast as numpy, and a plan needs thousands.
        low, low_s = sizes[above - 1], seconds[above - 1]
        part = (num_tokens - low) / (sizes[above] - low)
        return low_s + part * (seconds[above] - low_s) + extra

    def cells_s(self, used_cells: int, own_cells: float) -> float:
        """Returns the seconds that the cells of a cache add for each token of a pass."""
        return self.per_cell_s * used_cells + self.per_own_cell_s * own_cells

    def scaled(self, factor: float) -> CostTable:
        """Returns the table of a device that takes `factor` times as long."""
        seconds = tuple(factor * second for second in self.seconds)
        per_cells = factor * self.per_cell_s, factor * self.per_own_cell_s
        return CostTable(self.sizes, seconds, *per_cells)

    def with_own(self, own_cells: float) -> CostTable:
        """Returns a table that includes the cost of own_cells cells for each token."""
        each_s = self.per_own_cell_s * own_cells
        if each_s == 0.0:
            return self
        pairs = zip(self.sizes, self.seconds, strict=True)
        seconds = tuple(second + each_s * size for size, second in pairs)
        return CostTable(self.sizes, seconds, self.per_cell_s)


@dataclass(frozen=True, slots=True)
class NodeCosts:
    """The measured costs of one node: `decode` for tokens with logits, `prefill` for others."""

    decode: CostTable
    prefill: CostTable


@dataclass(slots=True)
class TableRefit:
    """A cost table that is corrected by observed passes, with forgetting.

    Each size has a correction of its own, and the price of cells has another one. A pass moves both
    in proportion to their parts of its predicted time.
    """

    table: CostTable
    rate: float = 0.1
    _base: CostTable = field(init=False)
    _log_factors: list[float] = field(init=False)
    _log_cells: float = 0.0

    def __post_init__(self) -> None:
        self._base = self.table
        self._log_factors = [0.0] * len(self.table.sizes)

    def observe(
        self, num_tokens: int, seconds: float, used_cells: int = 0, own_cells: float = 0.0
    ) -> None:
        """Learn from one pass; the measured sizes on both sides share the correction."""
        if seconds <= 0 or num_tokens < 1:
            return
        predicted_s = self.table.at(num_tokens, used_cells, own_cells)
        ratio = seconds / predicted_s
        log_ratio = math.log(min(MAX_RATIO, max(1.0 / MAX_RATIO, ratio)))
        by_cells = self.table.cells_s(used_cells, own_cells) * num_tokens / predicted_s
        limit = math.log(_MAX_FACTOR)
        moved = self._log_cells + self.rate * by_cells * log_ratio
        self._log_cells = min(limit, max(-limit, moved))
        sizes = self._base.sizes
        above = bisect.bisect_left(sizes, num_tokens)
        if above == 0 or above == len(sizes):
            shares = [(min(above, len(sizes) - 1), 1.0)]
        else:
            low, high = sizes[above - 1], sizes[above]
            part = (num_tokens - low) / (high - low)
            shares = [(above - 1, 1.0 - part), (above, part)]
        for index, share in shares:
            moved = self._log_factors[index] + self.rate * (1.0 - by_cells) * share * log_ratio
            self._log_factors[index] = min(limit, max(-limit, moved))
        seconds_now = tuple(
            second * math.exp(factor)
            for second, factor in zip(self._base.seconds, self._log_factors, strict=True)
        )
        factor = math.exp(self._log_cells)
        per_cells = factor * self._base.per_cell_s, factor * self._base.per_own_cell_s
        self.table = CostTable(sizes, seconds_now, *per_cells)


class CostColumns:
    """Cost tables by the number of threads, each corrected by passes with that many.

    table: the measured one, with which each begins. A busy machine leaves a target fewer threads.
    What is learnt then must not stay when it has all of them again: sizes of passes that seem to
    cost too much are not tried, and so never corrected.
    """

    def __init__(self, table: CostTable) -> None:
        self._table = table
        self._columns: dict[int, TableRefit] = {}

    def of(self, num_threads: int) -> TableRefit:
        """Returns the column of a number of threads."""
        return self._columns.setdefault(num_threads, TableRefit(self._table))


@dataclass(slots=True)
class Load:
    """The share of a device's time that some kind of work took in the last memory_s or so."""

    memory_s: float = 10.0
    _share: float = 0.0
    _since: float = 0.0

    def add(self, work_s: float, now: float) -> None:
        self._share = self.share(now) + work_s / self.memory_s
        self._since = now

    def share(self, now: float) -> float:
        return self._share * math.exp(-max(0.0, now - self._since) / self.memory_s)
