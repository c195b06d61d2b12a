"""When a compaction is worth its cost. What the log is for: test_llama_cache.py."""

from airdraft.nodes.engine.cells import CellLog, equal_runs


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


def test_a_pass_of_equal_runs_takes_cells_of_all_sequences_in_turn():
    assert list(equal_runs([(0, 7), (1, 3), (2, 5)], most=512)) == [
        *((0, 3), (1, 3), (2, 3)),
        *((0, 2), (2, 2)),
        (0, 2),
    ]
    # No more tokens at once than the engine takes, but one of each sequence in any case.
    assert list(equal_runs([(4, 5), (1, 4)], most=5)) == [(4, 2), (1, 2), (4, 2), (1, 2), (4, 1)]
    assert list(equal_runs([(0, 40)], most=32)) == [(0, 32), (0, 8)]
    assert list(equal_runs([(0, 1), (1, 2)], most=1)) == [(0, 1), (1, 1), (1, 1)]


def test_cells_that_lie_between_those_of_another_sequence_are_not_free():
    for most_at_once, is_tail in ((0, True), (512, False)):
        log = CellLog(100, 2, most_at_once=most_at_once)
        log.append_pass([(0, 20), (1, 8)])
        assert log.truncate(1, 0) == is_tail
        assert log.used == (20 if is_tail else 28)
        assert log.lengths == [20, 0]
