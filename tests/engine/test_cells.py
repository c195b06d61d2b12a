"""CellLog against a naive copy of llama.cpp's cache, with every cell written out."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodes.engine.cells import CellLog

TOTAL = 40
NUM_SEQUENCES = 4
GRAVEYARD = NUM_SEQUENCES


@dataclass
class Cell:
    position: int = -1
    seq_ids: set[int] = field(default_factory=set)


class NaiveCache:
    """Cells as llama.cpp keeps them: tokens take the first empty cells from the head on."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.cells = [Cell() for _ in range(TOTAL)]
        self.head = 0

    def positions(self, seq_id):
        """The sequence's positions in the order of its cells."""
        return [cell.position for cell in self.cells if seq_id in cell.seq_ids]

    def decode(self, seq_id, count):
        start = len(self.positions(seq_id))
        order = [*range(self.head, TOTAL), *range(self.head)]
        empty = [i for i in order if not self.cells[i].seq_ids][:count]
        assert len(empty) == count, "llama_decode: no slot"
        for offset, index in enumerate(empty):
            self.cells[index] = Cell(start + offset, {seq_id})
        self.head = (empty[-1] + 1) % TOTAL

    def seq_cp(self, source, target, first, end):
        for cell in self.cells:
            if source in cell.seq_ids and first <= cell.position < end:
                cell.seq_ids.add(target)

    def seq_rm(self, seq_id, first):
        for index, cell in enumerate(self.cells):
            if seq_id in cell.seq_ids and cell.position >= first:
                cell.seq_ids.remove(seq_id)
                if not cell.seq_ids:
                    self.head = min(self.head, index)


class CellLogMachine(RuleBasedStateMachine):
    """Drives both as LlamaModel does."""

    seq_ids = st.integers(0, NUM_SEQUENCES - 1)

    def __init__(self):
        super().__init__()
        self.log = CellLog(TOTAL, NUM_SEQUENCES)
        self.cache = NaiveCache()
        self.lengths = [0] * NUM_SEQUENCES

    def compact(self):
        self.cache.clear()
        for seq_id, length in enumerate(self.lengths):
            if length:
                self.cache.decode(seq_id, length)
        self.log.compacted()

    @rule(seq_id=seq_ids, count=st.integers(1, 6))
    def append(self, seq_id, count):
        num_empty = sum(not cell.seq_ids for cell in self.cache.cells)
        assert self.log.fits(count) == (count <= num_empty)
        if count > num_empty:
            if self.log.live + count > TOTAL:
                return
            self.compact()
        self.cache.decode(seq_id, count)
        self.log.append(seq_id, count)
        self.lengths[seq_id] += count

    @rule(seq_id=seq_ids, share=st.floats(0, 1))
    def truncate(self, seq_id, share):
        length = int(self.lengths[seq_id] * share)
        if length == self.lengths[seq_id]:
            return
        used = self.log.used
        if self.log.truncate(seq_id, length):
            assert self.log.used < used
        else:
            assert self.log.used == used
            self.cache.seq_cp(seq_id, GRAVEYARD, length, TOTAL)
        self.cache.seq_rm(seq_id, length)
        self.lengths[seq_id] = length
        if not any(self.lengths):
            self.compact()

    @rule(source=seq_ids, sharer=seq_ids, share=st.floats(0.01, 1))
    def copy_prefix(self, source, sharer, share):
        length = int(self.lengths[source] * share)
        if source == sharer or self.lengths[sharer] or length == 0:
            return
        self.cache.seq_cp(source, sharer, 0, length)
        self.log.share(source, sharer, length)
        self.lengths[sharer] = length

    @precondition(lambda self: sum(self.lengths) <= TOTAL)
    @rule()
    def compact_now(self):
        self.compact()
        assert self.log.garbage == 0
        assert self.log.used == self.log.live

    @invariant()
    def the_log_knows_the_lengths(self):
        assert self.log.lengths == self.lengths
        assert [self.log.length(seq_id) for seq_id in range(NUM_SEQUENCES)] == self.lengths
        assert self.log.live == sum(self.lengths)

    @invariant()
    def used_cells_are_exactly_the_first_ones(self):
        taken = [bool(cell.seq_ids) for cell in self.cache.cells]
        assert taken == [True] * self.log.used + [False] * (TOTAL - self.log.used)

    @invariant()
    def every_sequence_lies_in_the_order_of_its_positions(self):
        for seq_id, length in enumerate(self.lengths):
            assert self.cache.positions(seq_id) == list(range(length))


TestCellLog = CellLogMachine.TestCase
TestCellLog.settings = settings(max_examples=60, stateful_step_count=40)


def test_compaction_is_due_once_garbage_was_read_often_enough():
    log = CellLog(1000, 2, queries_per_cell=10)
    log.append(0, 100)
    log.append(1, 400)
    log.read(10**6)
    assert not log.should_compact(), "there is no garbage"
    log.truncate(0, 0)
    # 100 cells of garbage each time, and 10 queries for each of the 400 that live are free.
    log.read(40)
    assert not log.should_compact()
    log.read(1)
    assert log.should_compact()
    log.compacted()
    assert not log.should_compact()


def test_no_compaction_is_due_when_sharing_would_only_cost_cells():
    log = CellLog(300, 3)
    log.append(0, 100)
    log.append(1, 100)
    log.truncate(0, 0)
    log.read(10**4)
    log.share(1, 0, 100)
    log.share(1, 2, 100)
    assert log.live > log.used
    assert not log.should_compact()
