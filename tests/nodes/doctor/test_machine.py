import socket
from pathlib import Path

import pytest

from nodes.doctor import machine
from nodes.doctor.finding import Finding, Level
from nodes.doctor.machine import Core, Zone, check_port, is_free

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


def test_zones_and_cores_are_read_from_sysfs(tmp_path: Path) -> None:
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
