import os
import time

import pytest

from bench.cores import cores_at_once, wait_for_cores

ALL = float(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("alone", "together", "cores_seen"),
    [(100, 150, 1.5), (100, 90, 1.0), (100, 1000, 4.0), (0, 7, 4.0), (0, 0, 1.0)],
)
def test_what_cores_do_at_once_is_told_beside_one_alone(
    alone: int, together: int, cores_seen: float
) -> None:
    assert cores_at_once(4, {1: alone, 4: together}.__getitem__) == cores_seen
    assert 1.0 <= cores_at_once() <= ALL


def test_cores_that_others_have_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    seen = iter((0.5 * ALL, 0.9 * ALL))
    assert wait_for_cores(30.0, lambda: next(seen))
    assert list(seen) == []
    assert not wait_for_cores(0.0, lambda: 0.5)
