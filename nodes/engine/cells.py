"""Which cells of a unified KV cache are taken, in the order they were taken.

Bit-exact attention needs the cells of a sequence in position order, because the kernel sums
them in cell order. llama.cpp refills any hole, so a sequence that goes on after its neighbour
left would continue *below* its own cells, and its logits change. The cache is therefore used
as a log: cells are only appended; rejected and finished ones are kept as garbage (they move to
a graveyard sequence) until a compaction rewrites the live ones in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Reading past one garbage cell costs about 0.6 us a query, some 0.03 at most where attention skips
# them (kernels/), rewriting a live one about 40 us (SmolLM2-135M, one thread):
# compacting pays once the first sum reaches the second.
QUERIES_PER_CELL = 64
QUERIES_PER_SKIPPED_CELL = 1024


@dataclass(slots=True)
class _Run:
    position: int
    cell: int
    count: int


@dataclass(slots=True)
class CellLog:
    """Bookkeeping of an append-only cache of `total` cells for `max_sequences` sequences.

    queries_per_cell: that may read past as many cells as are live, before a compaction is worth it.
    """

    total: int
    max_sequences: int
    queries_per_cell: int = QUERIES_PER_CELL
    used: int = 0
    wasted_reads: int = 0
    lengths: list[int] = field(default_factory=list)
    _runs: list[list[_Run]] = field(default_factory=list)
    # Cells below this are buried or above buried ones: they stay taken until a compaction.
    _buried_below: int = 0

    def __post_init__(self) -> None:
        self.lengths = [0] * self.max_sequences
        self._runs = [[] for _ in range(self.max_sequences)]

    @property
    def live(self) -> int:
        """Cells that a compaction would keep; a shared cell counts once a sequence."""
        return sum(self.lengths)

    @property
    def garbage(self) -> int:
        return max(0, self.used - self.live)

    def fits(self, count: int) -> bool:
        return self.used + count <= self.total

    def append(self, seq_id: int, count: int) -> None:
        runs = self._runs[seq_id]
        if runs and runs[-1].cell + runs[-1].count == self.used:
            runs[-1].count += count
        else:
            runs.append(_Run(self.lengths[seq_id], self.used, count))
        self.lengths[seq_id] += count
        self.used += count

    def read(self, num_queries: int) -> None:
        self.wasted_reads += num_queries * self.garbage

    def truncate(self, seq_id: int, length: int) -> bool:
        """Forget positions from `length` on. True: they were the log's tail and are free again.

        False: the caller must bury them, as they lie between cells of others.
        """
        removed = self.lengths[seq_id] - length
        runs = self._runs[seq_id]
        expected_end = self.used
        removed_end = runs[-1].cell + runs[-1].count if runs else 0
        is_tail = True
        while runs and runs[-1].position + runs[-1].count > length:
            run = runs[-1]
            cut = min(run.count, run.position + run.count - length)
            is_tail = is_tail and run.cell + run.count == expected_end
            expected_end -= cut
            run.count -= cut
            if run.count == 0:
                runs.pop()
        self.lengths[seq_id] = length
        is_tail = is_tail and expected_end == self.used - removed
        if is_tail:
            is_tail = expected_end >= self._buried_below
        if is_tail:
            is_tail = not self._shares(expected_end, seq_id)
        if is_tail:
            self.used = expected_end
        elif removed:
            self._buried_below = max(self._buried_below, removed_end)
        return is_tail

    def _shares(self, from_cell: int, seq_id: int) -> bool:
        return any(
            run.cell + run.count > from_cell
            for other, runs in enumerate(self._runs)
            if other != seq_id
            for run in runs
        )

    def share(self, source: int, target: int, length: int) -> None:
        copied = []
        for run in self._runs[source]:
            if run.position < length:
                count = min(run.count, length - run.position)
                copied.append(_Run(run.position, run.cell, count))
        self._runs[target] = copied
        self.lengths[target] = length

    def should_compact(self) -> bool:
        # Sharing can leave no garbage, and then a compaction only takes more cells.
        limit = self.queries_per_cell * max(self.live, 256)
        return self.garbage > 0 and self.wasted_reads > limit

    def compacted(self) -> None:
        """The live cells were rewritten, sequence after sequence, from cell 0 on."""
        self.used = 0
        self.wasted_reads = 0
        self._buried_below = 0
        for seq_id, length in enumerate(self.lengths):
            self._runs[seq_id] = [_Run(0, self.used, length)] if length else []
            self.used += length
