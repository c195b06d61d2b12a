"""Physical cores, as the kernel describes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.engine.cores import usable_cores


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
