"""What the kernel says of connections, and what it is asked for; real sockets over loopback."""

import contextlib
import os
import socket
import sys

import pytest

from airdraft.mesh.tcp import quiet_s, retransmit_soon


@pytest.fixture
def pair():
    """Both ends of a connection over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        contextlib.closing(socket.create_connection(server.getsockname())) as client,
        contextlib.closing(server.accept()[0]) as accepted,
    ):
        yield client, accepted


async def test_what_only_goes_out_is_no_sign_of_life(pair, eventually):
    """It is acknowledged by the kernel, whatever the process does."""
    client, accepted = pair
    client.sendall(b"x")
    await eventually(lambda: quiet_s(accepted.fileno()) > 0.1)
    accepted.sendall(b"y")
    assert client.recv(9) == b"y"
    assert quiet_s(accepted.fileno()) > 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
def test_retransmissions_that_do_not_become_rare_are_asked_for(pair):
    client, _ = pair
    thin_linear_timeouts = 16
    assert client.getsockopt(socket.IPPROTO_TCP, thin_linear_timeouts) == 0
    retransmit_soon(client.fileno())
    assert client.getsockopt(socket.IPPROTO_TCP, thin_linear_timeouts) == 1
    # Under it no stream would count as thin; some other one may be chosen everywhere.
    assert not client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"bbr")


def test_nothing_is_known_of_what_is_no_tcp_connection():
    one, other = socket.socketpair()
    with one, other:
        assert quiet_s(one.fileno()) is None
        retransmit_soon(one.fileno())
    reading, writing = os.pipe()
    os.close(writing)
    assert quiet_s(reading) is None
    os.close(reading)
    assert quiet_s(reading) is None
