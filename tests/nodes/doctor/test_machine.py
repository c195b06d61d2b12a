from __future__ import annotations

from pathlib import Path

import pytest

from nodes.doctor import machine
from nodes.doctor.finding import Level
from nodes.doctor.machine import Core, Zone


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_swap() -> None:
    full = "SwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n"
    assert machine.check_swap(full).level is Level.WARN
    assert machine.check_swap("SwapTotal: 0 kB\nSwapFree: 0 kB\n").level is Level.OK
    assert machine.check_swap("").level is Level.OK


def test_limits() -> None:
    assert machine.check_files(1024, 1024).level is Level.WARN
    assert machine.check_files(1024, 1 << 20).level is Level.OK
    assert machine.check_files(-1, -1).level is Level.OK
    assert machine.check_memlock(8 << 20, 1 << 30).level is Level.NOTE
    assert machine.check_memlock(-1, 1 << 30).level is Level.OK


@pytest.mark.parametrize(
    ("zones", "level"),
    [
        ([], Level.NOTE),
        ([Zone("cpu", 50, None)], Level.OK),
        ([Zone("cpu", 90, None)], Level.WARN),
        ([Zone("cpu", 90, 110)], Level.OK),
        ([Zone("gpu", 40, None), Zone("cpu", 70, 75)], Level.WARN),
    ],
)
def test_heat(zones: list[Zone], level: Level) -> None:
    assert machine.check_thermal(zones).level is level


@pytest.mark.parametrize(
    ("cores", "level"),
    [
        ([], Level.NOTE),
        ([Core("cpu0", 2_000_000, 2_000_000, 0)], Level.OK),
        ([Core("cpu0", 2_000_000, 2_000_000, 7)], Level.NOTE),
        ([Core("cpu0", 700_000, 2_000_000, 0)], Level.WARN),
    ],
)
def test_frequencies(cores: list[Core], level: Level) -> None:
    assert machine.check_frequency(cores).level is level


def test_what_sysfs_says(tmp_path: Path) -> None:
    zone = "sys__class__thermal__thermal_zone0__"
    write(
        tmp_path,
        **{
            zone + "temp": "51500\n",
            zone + "type": "x86_pkg\n",
            zone + "trip_point_0_type": "passive\n",
            zone + "trip_point_0_temp": "95000\n",
            zone + "trip_point_1_type": "active\n",
            zone + "trip_point_1_temp": "40000\n",
            "sys__class__thermal__thermal_zone1__temp": "broken",
            "sys__devices__system__cpu__cpu0__cpufreq__scaling_max_freq": "1000000",
            "sys__devices__system__cpu__cpu0__cpufreq__cpuinfo_max_freq": "2000000",
            "sys__devices__system__cpu__cpu0__thermal_throttle__core_throttle_count": "3",
            "sys__devices__system__cpu__cpu1__online": "1",
        },
    )
    assert machine.read_zones(tmp_path) == [Zone("x86_pkg", 51.5, 95.0)]
    assert machine.read_cores(tmp_path) == [Core("cpu0", 1_000_000, 2_000_000, 3)]
    assert machine.read_zones(tmp_path / "none") == []
