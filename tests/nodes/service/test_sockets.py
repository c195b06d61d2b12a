"""Sockets that a service manager passes on, in processes that it would have started."""

import os
import socket
import subprocess
import sys

import pytest

from nodes.config.settings import ConfigError
from nodes.service.systemd import endpoint_of, inherited

_SHOW = (
    "import os; from nodes.service.systemd import *; "
    "os.environ['LISTEN_PID'] = str(os.getpid()); "
    "fd = inherited(os.environ, 'mesh'); print(fd, endpoint_of(fd))"
)


@pytest.mark.parametrize("names", ["mesh", "airdraft-coordinator.socket"])
def test_the_only_socket_is_the_one_that_is_meant(names):
    """In a process that was started with a socket as its descriptor 3."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = subprocess.run(
            [sys.executable, "-c", _SHOW],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": names},
            preexec_fn=lambda: os.dup2(listening.fileno(), 3),
            close_fds=False,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert made.stdout.strip() == f"3 tcp://127.0.0.1:{listening.getsockname()[1]}"


def test_of_several_sockets_none_is_left_to_wait_for_ever():
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "mesh:mesh"}
    with pytest.raises(ConfigError, match="has 2 ListenStream=, but only one is served"):
        inherited(environ, "mesh")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "0"},
        {"LISTEN_FDS": "one"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:other"},
    ],
)
def test_what_is_not_meant_is_left_alone(environ):
    assert inherited({"LISTEN_PID": str(os.getpid())} | environ, "mesh") is None


def test_endpoints_of_all_kinds_of_sockets(tmp_path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "mesh.sock"))
        bound.listen()
        assert endpoint_of(bound.fileno()) == f"ipc://{tmp_path}/mesh.sock"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as bound:
        assert endpoint_of(bound.fileno()) == f"tcp://[::1]:{bound.getsockname()[1]}"


def test_what_does_not_listen_is_an_error():
    with socket.socket() as silent, pytest.raises(OSError, match="not a listening"):
        endpoint_of(silent.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's words differ
            endpoint_of(datagrams.fileno())
