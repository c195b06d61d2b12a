import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.doctor import machine
from nodes.doctor.finding import Finding, Level
from nodes.doctor.machine import check_port, is_free

FULL = "SwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n"


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (machine.check_swap(FULL), Level.WARN),
        (machine.check_swap("SwapTotal: 0 kB\nSwapFree: 0 kB\n"), Level.OK),
        (machine.check_swap(""), Level.OK),
        (machine.check_files(1024, 1024), Level.WARN),
        (machine.check_files(1024, 1 << 20), Level.OK),
        (machine.check_files(-1, -1), Level.OK),
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

HEAD = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid timeout i\n"
)
LINE = "   0: 0100007F:1CF3 00000000:0000 {} 00000000:00000000 00:00000000 00000000 0 0 4242 1\n"
ENDPOINT = "tcp://127.0.0.1:7411"


def proc(root: Path, state: str = "0A", command: bytes = b"") -> None:
    (root / "proc/net").mkdir(parents=True)
    (root / "proc/net/tcp").write_text(HEAD + LINE.format(state))
    if command:
        (root / "proc/17/fd").mkdir(parents=True)
        (root / "proc/17/fd/3").symlink_to("socket:[4242]")
        (root / "proc/17/cmdline").write_bytes(command)


@pytest.mark.parametrize(
    ("command", "level", "says"),
    [
        (b"python\0-m\0nodes.cli\0up\0", Level.OK, "process 17 (python -m nodes.cli up) listens"),
        (b"nginx\0", Level.WARN, "process 17 (nginx) listens"),
        (b"", Level.WARN, "a process of another user listens"),
    ],
)
def test_it_is_said_who_listens(tmp_path: Path, command: bytes, level: Level, says: str) -> None:
    proc(tmp_path, command=command)
    finding = check_port(ENDPOINT, tmp_path)
    assert (finding.level, says in finding.what) == (level, True)


def test_a_connection_is_no_listener(tmp_path: Path) -> None:
    proc(tmp_path, state="01")
    assert check_port(ENDPOINT, tmp_path).what.startswith("port 7411 is free")
    assert is_free(ENDPOINT, tmp_path)


def test_a_real_listener_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert "listens" in check_port(endpoint).what
        assert not is_free(endpoint)


def test_a_socket_file_is_free_if_nobody_listens(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/x"
    assert check_port(endpoint).what == f"{endpoint}: no process listens"
    assert is_free(endpoint)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/x")
        # The file of a process that has ended.
        assert is_free(endpoint)
        server.listen()
        assert check_port(endpoint).what == f"{endpoint}: a process listens"
        assert not is_free(endpoint)
