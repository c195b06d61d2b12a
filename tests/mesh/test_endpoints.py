"""Endpoints as text."""

import pytest

from mesh.endpoints import check_bind, check_connect, check_secure, ipc_path
from mesh.errors import EndpointError, InsecureEndpointError


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
        "",
        "127.0.0.1:7000",
        "udp://127.0.0.1:7000",
        "tcp://127.0.0.1",
        "tcp://:7000",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:7000/path",
        "tcp://a b:7000",
        "tcp://127.0.0.1:7000\n",
        "ipc://relative.sock",
        "ipc:///a\0b",
        "ipc:///" + "x" * 108,
    ],
)
def test_malformed(endpoint):
    for check in (check_bind, check_connect):
        with pytest.raises(EndpointError) as caught:
            check(endpoint)
        assert repr(endpoint) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["tcp://*:7000", "tcp://host:0", "tcp://host:*"])
def test_nobody_connects_to_a_wildcard(endpoint):
    with pytest.raises(EndpointError):
        check_connect(endpoint)


def test_ipc_path():
    assert ipc_path("ipc:///run/x") == "/run/x"
    assert ipc_path("tcp://h:1") is None
    assert check_connect("tcp://h:1") == "tcp://h:1"


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:7411",
        "tcp://*:7411",
        "tcp://192.168.1.5:7411",
        "tcp://[::]:7411",
        "tcp://example.org:7411",
        "tcp://127.0.0.1.example.org:7411",
    ],
)
def test_without_keys_nothing_reaches_another_machine(endpoint: str) -> None:
    with pytest.raises(InsecureEndpointError, match="need keys"):
        check_secure(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:7411", "tcp://127.8.8.8:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///x"],
)
def test_loopback_needs_no_keys(endpoint: str) -> None:
    check_secure(endpoint)
