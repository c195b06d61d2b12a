import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from airdraft.nodes.doctor import machine
from airdraft.nodes.doctor.finding import Finding, Level
from airdraft.nodes.doctor.machine import check_port, is_free

FULL = "SwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n"


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (machine.check_swap(FULL), Level.WARN),
        (machine.check_swap("SwapTotal: 0 kB\nSwapFree: 0 kB\n"), Level.OK),
        (machine.check_swap(""), Level.OK),
    ],
    ids=lambda value: value.what[:40] if isinstance(value, Finding) else "",
)
def test_what_the_machine_says_is_judged(found: Finding, level: Level) -> None:
    assert found.level is level


ZONE, CORE = "class/thermal/thermal_zone0", "devices/system/cpu/cpu0"
# A fan may be started long before the processor is slowed down.
FAN = {f"{ZONE}/trip_point_0_type": "active", f"{ZONE}/trip_point_0_temp": "40000"}
TRIP = {f"{ZONE}/trip_point_1_type": "passive", f"{ZONE}/trip_point_1_temp": "75000"}


def zone(celsius: int) -> dict[str, str]:
    others = "class/thermal/thermal_zone1", "class/thermal/thermal_zone2"
    return {
        f"{ZONE}/temp": f"{celsius}000\n",
        f"{ZONE}/type": "x86_pkg\n",
        f"{others[0]}/temp": "broken",
        f"{others[1]}/temp": "30000\n",
        f"{others[1]}/type": "board\n",
    }


def core(limit_khz: int, num_throttled: int = 0) -> dict[str, str]:
    return {
        f"{CORE}/cpufreq/scaling_max_freq": str(limit_khz),
        f"{CORE}/cpufreq/cpuinfo_max_freq": "2000000",
        f"{CORE}/thermal_throttle/core_throttle_count": str(num_throttled),
        "devices/system/cpu/cpu1/online": "1",
    }


@pytest.mark.parametrize(
    ("check", "files", "level", "says"),
    [
        (machine.check_thermal, {}, Level.NOTE, "no temperatures can be read"),
        (machine.check_thermal, zone(50) | FAN, Level.OK, "hottest: x86_pkg at 50 C"),
        (machine.check_thermal, zone(90), Level.WARN, "x86_pkg at 90 C, near"),
        (machine.check_thermal, zone(60) | FAN | TRIP, Level.OK, "x86_pkg at 60 C"),
        (machine.check_thermal, zone(70) | FAN | TRIP, Level.WARN, "x86_pkg at 70 C, near"),
        (machine.check_frequency, {}, Level.NOTE, "no CPU frequencies can be read"),
        (machine.check_frequency, core(2_000_000), Level.OK, "up to 2.0 GHz, not throttled"),
        (machine.check_frequency, core(2_000_000, 7), Level.NOTE, "throttled 7 times"),
        (machine.check_frequency, core(700_000), Level.WARN, "cpu0 is limited to 0.7 of 2.0 GHz"),
    ],
)
def test_temperatures_and_frequencies_are_those_of_sysfs(
    check: Callable[[Path], Finding], files: dict[str, str], level: Level, says: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    finding = check(tmp_path)
    assert (finding.level, says in finding.what) == (level, True)


# -- who listens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_real_listener_is_found(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as server:
        shown = f"[{host}]" if ":" in host else host
        endpoint = f"tcp://{shown}:{server.getsockname()[1]}"
        assert check_port(endpoint).what == f"a process listens at {endpoint}"
    assert check_port(endpoint).what == f"{endpoint} is free"


def test_a_socket_file_is_free_if_nobody_listens(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/x"
    assert is_free(endpoint)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/x")
        # The file of a process that has ended.
        assert is_free(endpoint)
        server.listen()
        assert not is_free(endpoint)
