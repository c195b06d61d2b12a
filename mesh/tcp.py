"""What the kernel knows of a TCP connection and is told of it, by the descriptor of who owns it."""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

# Linux: eight bytes, then rto, ato, snd_mss, rcv_mss, unacked, sacked, lost, retrans, fackets,
# last_data_sent, last_ack_sent, last_data_recv, last_ack_recv; the last four in milliseconds.
_FIELDS: Final = struct.Struct("=8x16xI24xII")
# More segments under way than Pings that were not acknowledged yet would take.
_MANY_SEGMENTS: Final = 3
# Linux: of streams with few packets under way the first six retransmissions of one come after equal
# times, not after ever longer ones.
_TCP_THIN_LINEAR_TIMEOUTS: Final = 16
# With BBR no stream counts as thin: it never leaves what the kernel takes for its slow start.
_WITHOUT_THIN: Final = b"bbr"
_INSTEAD: Final = (b"cubic", b"reno")
_MAX_NAME: Final = 16


def retransmit_soon(fd: int) -> None:
    """Bear several losses in a row: the fourth in the usual way would take three seconds."""
    if sys.platform != "linux":
        return
    with _connection(fd) as connection, contextlib.suppress(OSError):
        if connection is None:
            return
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS, 1)
        level, option = socket.IPPROTO_TCP, socket.TCP_CONGESTION
        if connection.getsockopt(level, option, _MAX_NAME).startswith(_WITHOUT_THIN):
            for name in _INSTEAD:
                # Which ones an unprivileged process may choose is the machine's to say.
                with contextlib.suppress(OSError):
                    connection.setsockopt(level, option, name)
                    return


def quiet_s(fd: int) -> float | None:
    """Seconds since bytes came in, or since some of many that go out were acknowledged.

    A message that occupies a slow link for seconds is no silence.

    None where that is not known: for what is no TCP connection, or none any more. Acknowledgements
    alone say that the other side's kernel lives, so they count only while there is much to take.
    """
    info = _tcp_info(fd)
    if len(info) < _FIELDS.size:
        return None
    num_unacknowledged, data_ms, acknowledged_ms = _FIELDS.unpack(info)
    is_busy = num_unacknowledged >= _MANY_SEGMENTS
    return float(min(data_ms, acknowledged_ms) if is_busy else data_ms) / 1e3


def _tcp_info(fd: int) -> bytes:
    if not hasattr(socket, "TCP_INFO"):
        return b""
    with _connection(fd) as connection, contextlib.suppress(OSError):
        if connection is not None:
            return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
    return b""


@contextlib.contextmanager
def _connection(fd: int) -> Iterator[socket.socket | None]:
    """The connection by a name of our own: its owner may close its own at any moment."""
    try:
        own_fd = os.dup(fd)
    except OSError:
        yield None
        return
    try:
        connection = socket.socket(fileno=own_fd)
    except OSError:
        os.close(own_fd)
        yield None
        return
    with connection:
        is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
        yield connection if is_tcp else None
