"""What the kernel knows of a TCP connection: whether bytes still come, or still go.

A message that occupies a slow link for seconds is no silence, though nothing else comes meanwhile.
"""

import contextlib
import os
import socket
import struct
from typing import Final

# Linux: eight bytes, then rto, ato, snd_mss, rcv_mss, unacked, sacked, lost, retrans, fackets,
# last_data_sent, last_ack_sent, last_data_recv, last_ack_recv; the last four in milliseconds.
_FIELDS: Final = struct.Struct("=8x16xI24xII")
# More segments under way than Pings that were not acknowledged yet would take.
_MANY_SEGMENTS: Final = 3


def quiet_s(fd: int) -> float | None:
    """Seconds since bytes came in, or since some of many that go out were acknowledged.

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
    try:
        # A name of our own for it: ZeroMQ may close its own at any moment.
        own_fd = os.dup(fd)
    except OSError:
        return b""
    try:
        connection = socket.socket(fileno=own_fd)
    except OSError:
        os.close(own_fd)
        return b""
    with connection, contextlib.suppress(OSError):
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
    return b""
