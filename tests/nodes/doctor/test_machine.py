from __future__ import annotations

from pathlib import Path

import pytest

from nodes.doctor import machine
from nodes.doctor.finding import Finding, Level
from nodes.doctor.machine import Core, Zone

FULL = "SwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n"
HZ = 2_000_000


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (machine.check_swap(FULL), Level.WARN),
        (machine.check_swap("SwapTotal: 0 kB\nSwapFree: 0 kB\n"), Level.OK),
        (machine.check_swap(""), Level.OK),
        (machine.check_files(1024, 1024), Level.WARN),
        (machine.check_files(1024, 1 << 20), Level.OK),
        (machine.check_files(-1, -1), Level.OK),
        (machine.check_memlock(8 << 20, 1 << 30), Level.NOTE),
        (machine.check_memlock(-1, 1 << 30), Level.OK),
        (machine.check_thermal([]), Level.NOTE),
        (machine.check_thermal([Zone("cpu", 50, None)]), Level.OK),
        (machine.check_thermal([Zone("cpu", 90, None)]), Level.WARN),
        (machine.check_thermal([Zone("cpu", 90, 110)]), Level.OK),
        (machine.check_thermal([Zone("gpu", 40, None), Zone("cpu", 70, 75)]), Level.WARN),
        (machine.check_frequency([]), Level.NOTE),
        (machine.check_frequency([Core("cpu0", HZ, HZ, 0)]), Level.OK),
        (machine.check_frequency([Core("cpu0", HZ, HZ, 7)]), Level.NOTE),
        (machine.check_frequency([Core("cpu0", 700_000, HZ, 0)]), Level.WARN),
    ],
    ids=lambda value: value.what[:40] if isinstance(value, Finding) else "",
)
def test_what_the_machine_says_is_judged(found: Finding, level: Level) -> None:
    assert found.level is level


def test_what_sysfs_says(tmp_path: Path) -> None:
    zone, cpu = "class/thermal/thermal_zone0", "devices/system/cpu"
    files = {
        f"{zone}/temp": "51500\n",
        f"{zone}/type": "x86_pkg\n",
        f"{zone}/trip_point_0_type": "passive\n",
        f"{zone}/trip_point_0_temp": "95000\n",
        f"{zone}/trip_point_1_type": "active\n",
        f"{zone}/trip_point_1_temp": "40000\n",
        "class/thermal/thermal_zone1/temp": "broken",
        f"{cpu}/cpu0/cpufreq/scaling_max_freq": "1000000",
        f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": "2000000",
        f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3",
        f"{cpu}/cpu1/online": "1",
    }
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine.read_zones(tmp_path) == [Zone("x86_pkg", 51.5, 95.0)]
    assert machine.read_cores(tmp_path) == [Core("cpu0", 1_000_000, 2_000_000, 3)]
    assert machine.read_zones(tmp_path / "none") == []
