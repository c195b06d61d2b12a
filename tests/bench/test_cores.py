from __future__ import annotations

import os

import pytest

from bench import cores
from bench.cores import cores_at_once, wait_for_cores


def test_all_cores_do_at_least_what_one_does() -> None:
    assert 1.0 <= cores_at_once() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("alone", "together", "cores_seen"),
    [(100, 150, 1.5), (100, 90, 1.0), (100, 1000, 4.0), (0, 7, 4.0), (0, 0, 1.0)],
)
def test_what_cores_do_at_once_is_told_beside_one_alone(
    monkeypatch: pytest.MonkeyPatch, alone: int, together: int, cores_seen: float
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    counted = {1: alone, 4: together}
    monkeypatch.setattr(cores, "_count", lambda loops: counted[len(loops)])
    assert cores_at_once() == cores_seen


def test_cores_that_others_have_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = float(len(os.sched_getaffinity(0)))
    seen = [0.5 * all_of_them, 0.9 * all_of_them]
    monkeypatch.setattr(cores, "cores_at_once", lambda: seen.pop(0))
    monkeypatch.setattr(cores.time, "sleep", lambda _: None)
    assert wait_for_cores()
    assert seen == []


def test_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores_at_once", lambda: 0.5)
    monkeypatch.setattr(cores.time, "sleep", lambda _: None)
    assert not wait_for_cores(0.0)
