"""Physical cores, as the kernel describes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodes.engine.cores import FreeCores, usable_cores, used_seconds


def machine(root: Path, siblings: list[str], quota: str = "") -> Path:
    for cpu, text in enumerate(siblings):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    if quota:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/cpu.max").write_text(quota + "\n")
    return root


@pytest.mark.parametrize(
    ("siblings", "quota", "cpus", "cores"),
    [
        (["0", "1"], "", {0, 1}, 2),
        (["0,2", "1,3", "0,2", "1,3"], "", {0, 1, 2, 3}, 2),
        (["0-1", "0-1", "2-3", "2-3"], "", {0, 1}, 1),
        (["0", "1", "2", "3"], "max 100000", {0, 1, 2, 3}, 4),
        (["0", "1", "2", "3"], "250000 100000", {0, 1, 2, 3}, 2),
        (["0", "1"], "50000 100000", {0, 1}, 1),
        ([], "", {0, 1, 2}, 3),
    ],
)
def test_cores_that_are_worth_a_thread(
    tmp_path: Path, siblings: list[str], quota: str, cpus: set[int], cores: int
) -> None:
    assert usable_cores(machine(tmp_path, siblings, quota), frozenset(cpus)) == cores


def test_this_machine_has_some() -> None:
    assert usable_cores() >= 1


class Machine:
    """Two cores, on which others work a share of the time."""

    def __init__(self) -> None:
        self.now_s = self.others_s = self.own_s = 0.0

    def read(self) -> tuple[float, float]:
        return self.others_s + self.own_s, self.own_s

    def passes(self, seconds: float, *, others: float, own: float) -> None:
        self.now_s += seconds
        self.others_s += others * seconds
        self.own_s += own * seconds


def test_threads_go_where_others_work_and_come_back() -> None:
    machine = Machine()
    free = FreeCores(2, read=machine.read, clock=lambda: machine.now_s)
    assert free.num_threads == 2
    machine.passes(10.0, others=0.1, own=1.9)
    assert not free.changed()
    machine.passes(0.2, others=1.0, own=1.0)
    assert not free.changed(), "looked too soon"
    machine.passes(0.8, others=1.0, own=1.0)
    assert free.changed()
    assert free.num_threads == 1
    machine.passes(1.0, others=2.0, own=0.0)
    assert not free.changed()
    assert free.num_threads == 1
    machine.passes(1.0, others=0.0, own=1.0)
    assert free.changed()
    assert free.num_threads == 2


def test_used_seconds_are_those_of_our_cpus(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 20 30 5000 7 4 6 0 0 0\ncpu1 1000 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    used, own = used_seconds(tmp_path, frozenset({0}))
    assert used == pytest.approx(160 / os.sysconf("SC_CLK_TCK"))
    assert own > 0
