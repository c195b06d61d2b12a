from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nodes.doctor.finding import Level
from nodes.doctor.machine import check_port, is_free

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
def test_who_listens(tmp_path: Path, command: bytes, level: Level, says: str) -> None:
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


def test_socket_files(tmp_path: Path) -> None:
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
