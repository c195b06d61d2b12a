"""Physical cores, as the kernel describes them, and what tells a device from another."""

import os
from pathlib import Path

import pytest

from airdraft.nodes.engine.cores import (
    FreeCores,
    available_memory,
    describe_device,
    this_device,
    usable_cores,
    used_seconds,
)


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
    assert usable_cores() >= 1, "of this machine"


@pytest.mark.parametrize(
    ("limit", "free"),
    [("max", 8000 * 1024), ("5000000", 5_000_000 - 3_000_000 + 500_000), ("1000000", 0)],
)
def test_the_memory_of_a_control_group_counts_without_files_that_nobody_uses(
    tmp_path: Path, limit: str, free: int
) -> None:
    files = {
        "proc/meminfo": "MemTotal: 16000 kB\nMemAvailable:    8000 kB\n",
        "proc/self/cgroup": "0::/ours\n",
        "sys/fs/cgroup/ours/memory.max": f"{limit}\n",
        "sys/fs/cgroup/ours/memory.current": "3000000\n",
        "sys/fs/cgroup/ours/memory.stat": "anon 2000000\ninactive_file 500000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == free
    assert available_memory() > 0, "of this machine"


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({"system.slice/ours.service": "200000 100000"}, 2),
        ({"system.slice": "300000 100000", "system.slice/ours.service": "max 100000"}, 3),
        ({"system.slice/another.service": "100000 100000"}, 4),
    ],
)
def test_the_quota_of_a_service_or_of_its_slice_counts(
    tmp_path: Path, quotas: dict[str, str], cores: int
) -> None:
    """CPUQuota= of systemd: the group is below the root's, which has no quota itself."""
    root = machine(tmp_path, ["0", "1", "2", "3"])
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("1:name=systemd:/x\n0::/system.slice/ours.service\n")
    for group, quota in quotas.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(quota + "\n")
    assert usable_cores(root, frozenset(range(4))) == cores


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
    for seconds, others, own, has_changed, num_threads in (
        (10.0, 0.1, 1.9, False, 2),
        # Looked too soon.
        (0.2, 1.0, 1.0, False, 2),
        (0.8, 1.0, 1.0, True, 1),
        (1.0, 2.0, 0.0, False, 1),
        (1.0, 0.0, 1.0, True, 2),
    ):
        machine.passes(seconds, others=others, own=own)
        assert (free.changed(), free.num_threads) == (has_changed, num_threads)


def test_used_seconds_are_those_of_our_cpus(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 20 30 5000 7 4 6 0 0 0\ncpu1 1000 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    used, own = used_seconds(tmp_path, frozenset({0}))
    assert used == pytest.approx(160 / os.sysconf("SC_CLK_TCK"))
    assert own > 0


PI_CORE = """processor\t: {n}
BogoMIPS\t: 108.00
Features\t: fp asimd aes crc32 asimddp
CPU implementer\t: 0x41
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""
PI_5 = "\n".join(PI_CORE.format(n=n) for n in range(4)) + "\nSerial\t\t: 0123456789abcdef\n"
PI_BOARD = "Raspberry Pi 5 Model B Rev 1.0\0"
X86_CORE = """processor\t: {n}
model name\t: AMD EPYC
stepping\t: 1
cpu MHz\t\t: 2445.{n}32
flags\t\t: fpu vme de sse sse2 avx f16c avx2 fma vaes
"""
X86 = "\n".join(X86_CORE.format(n=n) for n in range(2)) + "\n"
DEVICES = {"pi": (PI_5, PI_BOARD, 4), "x86": (X86, "", 2)}


def test_a_device_is_told_by_its_board_its_cores_and_their_number() -> None:
    line = describe_device(*DEVICES["pi"])
    assert line.startswith("Raspberry Pi 5 Model B Rev 1.0; 4 x CPU implementer 0x41, ")
    assert "CPU part 0xd0b" in line
    assert line.endswith("; 4 CPUs")
    assert "model name AMD EPYC" in describe_device(*DEVICES["x86"])
    assert describe_device("", "", 3) == "3 CPUs"
    little = PI_CORE.format(n=4).replace("0xd0b", "0xd05")
    line = describe_device(PI_CORE.format(n=0) + "\n" + little, "", 2)
    assert all(part in line for part in ("1 x ", "0xd0b", "0xd05"))
    assert this_device() == this_device() != ""
    # Another board or number of CPUs is another device.
    boards = [(PI_BOARD, 4), ("Raspberry Pi Compute Module 5\0", 4), (PI_BOARD, 2)]
    assert len({describe_device(PI_5, *board) for board in boards}) == 3


@pytest.mark.parametrize(
    ("device", "old", "new"),
    [
        ("pi", "0xd0b", "0xd08"),
        ("pi", "CPU revision\t: 1", "CPU revision\t: 2"),
        ("pi", "CPU variant\t: 0x4", "CPU variant\t: 0x1"),
        ("pi", " asimddp", ""),
        ("pi", "0x41", "0x4e"),
        ("x86", " avx2", " avx2 avx512f"),
        ("x86", "stepping\t: 1", "stepping\t: 2"),
        # What changes while it runs, or is of one piece alone, makes no other device.
        ("same pi", "0123456789abcdef", "fedcba9876543210"),
        ("same x86", "2445.", "1500."),
        ("same x86", "fpu vme de", "de vme fpu"),
        ("same pi", "108.00", "31.25"),
    ],
)
def test_another_cpu_is_another_device(device: str, old: str, new: str) -> None:
    cpuinfo, board, num_cpus = DEVICES[device.removeprefix("same ")]
    assert old in cpuinfo
    other = describe_device(cpuinfo.replace(old, new), board, num_cpus)
    is_same = other == describe_device(cpuinfo, board, num_cpus)
    assert is_same == device.startswith("same ")
