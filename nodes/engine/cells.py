"""Records which cells of a unified KV cache are taken, in the order in which they were taken.

Bit-exact attention needs the cells of a sequence in position order, because the kernel adds them
up in cell order. llama.cpp refills any hole. A sequence that continues after another one has ended
would then get cells *below* its own, and its logits would change. The cache is therefore used
as a log: cells are only appended. Those of rejected guesses and finished sequences stay as garbage
in a graveyard sequence until a compaction rewrites the live ones in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Reading past one garbage cell costs a query about 0.6 us, or at most 0.03 us where attention skips
# masked cells (kernels/). Rewriting a live cell costs about 40 us (SmolLM2-135M, one thread).
# A compaction is worth its cost once the reads have cost as much as it does.
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

    queries_per_cell: A compaction is worth its cost once this many queries have read past as many
    garbage cells as there are live cells.
    """

    total: int
    max_sequences: int
    queries_per_cell: int = QUERIES_PER_CELL
    used: int = 0
    wasted_reads: int = 0
    lengths: list[int] = field(default_factory=list)
    _runs: list[list[_Run]] = field(default_factory=list)
    # All cells below this index stay taken until a compaction: garbage, and what lies below it.
    _buried_below: int = 0

    def __post_init__(self) -> None:
        self.lengths = [0] * self.max_sequences
        self._runs = [[] for _ in range(self.max_sequences)]

    @property
    def live(self) -> int:
        """The cells that a compaction keeps; a shared cell counts once for each sequence."""
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
        """Forget the positions from `length` on.

        Returns True if they were the tail of the log, so that their cells are free again. If False,
        they lie between cells of other sequences, and the caller must move them to the graveyard.
        """
        has_removed = self.lengths[seq_id] > length
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
        is_tail = is_tail and expected_end >= self._buried_below
        is_tail = is_tail and not self._shares(expected_end, seq_id)
        if is_tail:
            self.used = expected_end
        elif has_removed:
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
        # With shared cells there may be no garbage. A compaction would then only take more cells.
        limit = self.queries_per_cell * max(self.live, 256)
        return self.garbage > 0 and self.wasted_reads > limit

    def compacted(self) -> None:
        """Record that the live cells were rewritten, sequence after sequence, from cell 0 on."""
        self.used = 0
        self.wasted_reads = 0
        self._buried_below = 0
        for seq_id, length in enumerate(self.lengths):
            self._runs[seq_id] = [_Run(0, self.used, length)] if length else []
            self.used += length
