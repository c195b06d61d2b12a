"""Endpoints as text."""

import os
from pathlib import Path

import pytest

from airdraft.mesh.endpoints import check_bind, check_connect, check_secure, ipc_path, reached_at
from airdraft.mesh.errors import EndpointError, InsecureEndpointError
from airdraft.mesh.zmq_transport import ZmqContext


@pytest.mark.parametrize(
    ("endpoint", "bound"),
    [
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:*"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("tcp://localhost:7000", "tcp://127.0.0.1:7000"),
        ("tcp://*:7000", "tcp://*:7000"),
        ("tcp://[::1]:65535", "tcp://[::1]:65535"),
        ("ipc:///run/mesh.sock", "ipc:///run/mesh.sock"),
    ],
)
def test_bind(endpoint, bound):
    assert check_bind(endpoint) == bound


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "127.0.0.1:7000", "udp://127.0.0.1:7000", "tcp://127.0.0.1", "tcp://:7000"),
        *("tcp://127.0.0.1:65536", "tcp://127.0.0.1:7000/path", "tcp://127.0.0.1:7000\n"),
        *("tcp://a b:7000", "ipc://relative.sock", "ipc:///a\0b", "ipc:///" + "x" * 108),
    ],
)
def test_malformed(endpoint):
    for check in (check_bind, check_connect):
        with pytest.raises(EndpointError) as caught:
            check(endpoint)
        assert repr(endpoint) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nobody_connects_to_a_wildcard():
    assert check_connect("tcp://h:1") == "tcp://h:1"
    for endpoint in ("tcp://*:7000", "tcp://host:0", "tcp://host:*"):
        with pytest.raises(EndpointError):
            check_connect(endpoint)


def test_ipc_path():
    assert ipc_path("ipc:///run/x") == "/run/x"
    assert ipc_path("tcp://h:1") is None


def test_without_keys_nothing_reaches_another_machine() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]"):
        check_secure(f"tcp://{host}:7411")
    check_secure("ipc:///x")
    others = ("0.0.0.0", "*", "192.168.1.5", "[::]", "example.org", "127.0.0.1.example.org")
    for host in others:
        with pytest.raises(InsecureEndpointError, match="need keys"):
            check_secure(f"tcp://{host}:7411")


def test_a_socket_file_is_closed_to_other_users_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sock"
    before = os.umask(0)
    try:
        with ZmqContext() as context:
            context.bind(f"ipc://{path}")
            assert path.stat().st_mode & 0o007 == 0
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("bound", "towards", "told"),
    [
        ("tcp://10.0.0.2:7412", "tcp://10.0.0.1:7411", "tcp://10.0.0.2:7412"),
        ("tcp://0.0.0.0:7412", "tcp://127.0.0.1:7411", "tcp://127.0.0.1:7412"),
        ("tcp://0.0.0.0:7412", "ipc:///run/mesh", "tcp://127.0.0.1:7412"),
        ("ipc:///run/stage", "ipc:///run/mesh", "ipc:///run/stage"),
        # Another address of loopback is reached from the usual one.
        ("tcp://0.0.0.0:7412", "tcp://127.0.0.9:7411", "tcp://127.0.0.1:7412"),
    ],
)
def test_where_others_reach_an_endpoint(bound: str, towards: str, told: str) -> None:
    assert reached_at(bound, towards) == told


def test_a_machine_without_a_way_to_the_other_one_is_told() -> None:
    with pytest.raises(EndpointError, match="cannot be reached"):
        reached_at("tcp://0.0.0.0:7412", "tcp://nowhere.invalid:7411")
