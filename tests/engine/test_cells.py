"""When a compaction is worth its cost. What the log is for: test_llama_cache.py."""

from nodes.engine.cells import CellLog


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
