"""Endpoints that ZeroMQ servers bind, the files they leave, and the options of their sockets."""

import asyncio
import contextlib
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from mesh.errors import AddressInUseError, EndpointError
from mesh.zmq_transport import ZmqContext
from tests.mesh.zmq_pairs import joined


def test_closing_removes_its_own_socket_file_if_it_is_there(context, tmp_path):
    path = tmp_path / "mesh.sock"
    server = context.bind(f"ipc://{path}")
    assert path.is_socket()
    server.close()
    assert not path.exists()
    server = context.bind(f"ipc://{path}")
    path.unlink()
    server.close()
    server = context.bind(f"ipc://{path}")
    path.rename(tmp_path / "moved")
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        server.close()
        assert path.is_socket()


async def test_socket_file_of_a_killed_process_is_replaced(context, tmp_path):
    path = tmp_path / "mesh.sock"
    script = (
        "import os, signal, sys; from mesh.zmq_transport import ZmqContext;"
        "ZmqContext().bind(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, f"ipc://{path}", cwd=Path(__file__).parents[2]
    )
    assert await process.wait() == -signal.SIGKILL
    assert path.is_socket()
    await joined(context, f"ipc://{path}")


async def test_a_living_endpoint_is_in_use_and_stays_usable(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    with ZmqContext() as other, pytest.raises(AddressInUseError) as caught:
        other.bind(server.endpoint)
    text = str(caught.value)
    assert server.endpoint in text
    assert "\n" not in text
    client.send([b"still here"])
    assert (await server.recv())[1] == [b"still here"]


def test_a_plain_file_is_never_replaced(context, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(AddressInUseError):
        context.bind(f"ipc://{path}")
    assert path.read_text() == "dear diary"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_kernel_picks_a_port(context, host):
    if host == "[::1]" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    server, _, _ = await joined(context, f"tcp://{host}:0")
    assert int(server.endpoint.rsplit(":", 1)[1]) > 0


def _has_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != 99


def test_an_unusable_endpoint_says_so(context):
    with pytest.raises(EndpointError, match="endpoint"):
        context.bind("ipc:///no/such/folder/mesh.sock")


# Of asm-generic/socket.h, which Python does not name.
_SO_RCVBUFFORCE = 33


async def test_packets_of_interactive_links_are_marked():
    """As they go over the loopback device: looked at there, which takes root."""
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    except PermissionError:
        pytest.skip("raw sockets are not allowed here")
    with wire, ZmqContext() as at_server, ZmqContext() as at_client:
        # Other tests send over the same device at the same time.
        wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        wire.bind(("lo", 0))
        wire.setblocking(False)
        server = at_server.bind("tcp://127.0.0.1:0", interactive=True)
        port = int(server.endpoint.rpartition(":")[2])
        client = at_client.connect(server.endpoint, interactive=True)
        await client.writable()
        client.send([b"there"])
        server.send((await server.recv()).peer, [b"and back"])
        await client.recv()
        marks = {port: set(), 0: set()}
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = wire.recv(2048)[14:]
                source, target = struct.unpack("!HH", packet[20:24])
                # With data: headers are 20 bytes of IP and at most 60 of TCP.
                if port in (source, target) and len(packet) > 80:
                    marks[port if source == port else 0].add(packet[1])
        assert marks == {port: {0xA0}, 0: {0xA0}}
