"""Records which cells of a unified KV cache are taken, in the order in which they were taken.

Bit-exact attention needs the cells of a sequence in position order, because the kernel adds them
up in cell order. llama.cpp refills any hole. A sequence that continues after another one has ended
would then get cells *below* its own, and its logits would change. The cache is therefore used
as a log: cells are only appended. Those of rejected guesses and finished sequences stay as garbage
in a graveyard sequence until a compaction rewrites the live ones in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from airdraft.nodes.engine.protocol import common_prefix

# Reading past one garbage cell costs a query about 0.6 us, or at most 0.03 us where attention skips
# masked cells (kernels/). Rewriting a live cell costs about 40 us (SmolLM2-135M, one thread).
# A compaction is worth its cost once the reads have cost as much as it does.
QUERIES_PER_CELL = 64
QUERIES_PER_SKIPPED_CELL = 1024


# A sequence and how many of its next tokens take cells one after the other.
Run = tuple[int, int]


def equal_runs(spans: Iterable[Run], most: int) -> Iterator[Run]:
    """Yield the runs of a pass in the order in which a model with recurrent layers takes cells.

    These layers need equally many tokens of each sequence. So libllama runs as many as the shortest
    span has, but at most `most` (n_ubatch) of all sequences together, and then goes on with what
    is left. A span with shorter neighbours thus has its cells in several places.
    """
    left = list(spans)
    while left:
        count = min(max(1, most // len(left)), *(rest for _, rest in left))
        yield from ((seq_id, count) for seq_id, _ in left)
        left = [(seq_id, rest - count) for seq_id, rest in left if rest > count]


class CellLog:
    """Bookkeeping of an append-only cache of `total` cells for `max_sequences` sequences.

    num_branches: Further sequences, which a compaction drops.

    queries_per_cell: A compaction is worth its cost once this many queries have read past as many
    garbage cells as there are live cells. most_at_once: The limit of equal_runs() if passes take
    cells in that order; 0 if they take them span by span.
    """

    def __init__(
        self,
        total: int,
        max_sequences: int,
        queries_per_cell: int = QUERIES_PER_CELL,
        most_at_once: int = 0,
        num_branches: int = 0,
    ) -> None:
        self.total = total
        self._num_kept = max_sequences
        self._queries_per_cell = queries_per_cell
        self._most_at_once = most_at_once
        # The cells of each sequence, in the order of its positions.
        self._cells: list[list[int]] = [[] for _ in range(max_sequences + num_branches)]
        # The length of the log: all cells from here on are free. Those from `_buried` on are not in
        # the graveyard.
        self.used = self._buried = 0
        self._wasted_reads = 0

    @property
    def lengths(self) -> list[int]:
        """The positions of each sequence."""
        return [len(cells) for cells in self._cells]

    def length(self, seq_id: int) -> int:
        """Returns the positions of one sequence, in a time that the others do not add to."""
        return len(self._cells[seq_id])

    def last_cell(self, seq_id: int) -> int:
        """Returns the last cell of a sequence, which must not be empty."""
        return self._cells[seq_id][-1]

    @property
    def kept(self) -> list[int]:
        """The positions of each sequence that a compaction keeps."""
        return self.lengths[: self._num_kept]

    @property
    def live(self) -> int:
        """The cells that a compaction keeps; a shared cell counts once for each sequence."""
        return sum(self.kept)

    @property
    def garbage(self) -> int:
        return max(0, self.used - self.live)

    def fits(self, count: int) -> bool:
        return self.used + count <= self.total

    def append(self, seq_id: int, count: int) -> None:
        self._cells[seq_id] += range(self.used, self.used + count)
        self.used += count

    def append_pass(self, spans: Iterable[Run]) -> None:
        """Record the cells that the spans of a pass took."""
        most = self._most_at_once
        for seq_id, count in equal_runs(spans, most) if most else spans:
            self.append(seq_id, count)

    def read(self, num_queries: int) -> None:
        self._wasted_reads += num_queries * self.garbage

    def truncate(self, seq_id: int, length: int) -> bool:
        """Forget the positions from `length` on, of which there must be some.

        Returns True if they were the tail of the log, so that their cells are free again. If False,
        other sequences have cells behind them or share them, and the caller must move them to the
        graveyard.
        """
        removed = self._cells[seq_id][length:]
        del self._cells[seq_id][length:]
        ends = [self._buried, *(cells[-1] + 1 for cells in self._cells if cells)]
        if max(ends) <= removed[0]:
            self.used = removed[0]
            return True
        self._buried = max(self._buried, removed[-1] + 1)
        return False

    def num_shared(self, source: int, target: int) -> int:
        """Returns how many of their first positions two sequences have in the same cells."""
        return common_prefix(self._cells[source], self._cells[target])

    def share(self, source: int, target: int, length: int) -> None:
        self._cells[target] = self._cells[source][:length]

    def should_compact(self) -> bool:
        # With shared cells there may be no garbage. A compaction would then only take more cells.
        limit = self._queries_per_cell * max(self.live, 256)
        return self.garbage > 0 and self._wasted_reads > limit

    def compacted(self, total: int = 0) -> None:
        """Record that the live cells were rewritten, sequence after sequence, from cell 0 on.

        total: The cells that the cache has now, if they are others.
        """
        lengths, self.total = self.kept, total or self.total
        self._cells = [[] for _ in self._cells]
        self.used = self._buried = self._wasted_reads = 0
        for seq_id, length in enumerate(lengths):
            self.append(seq_id, length)
