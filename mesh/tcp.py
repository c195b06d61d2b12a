"""Reads and sets kernel data of a TCP connection by a descriptor that ZeroMQ owns."""

import contextlib
import os
import socket
import struct
import sys
from typing import Final

# Linux: eight bytes, then rto, ato, snd_mss, rcv_mss, unacked, sacked, lost, retrans, fackets,
# last_data_sent, last_ack_sent, last_data_recv, last_ack_recv; the last four in milliseconds.
_FIELDS: Final = struct.Struct("=8x16xI24xII")
# The same; then the rest of 24 numbers of four bytes, and three of eight before bytes_received.
_RECEIVED: Final = struct.Struct("=8x96x24xQ")
# Unacknowledged segments that show more traffic than outstanding Pings alone would cause.
_MANY_SEGMENTS: Final = 3
# Linux: in connections with few packets in flight the first six retransmissions come at equal
# intervals instead of ever longer ones.
_TCP_THIN_LINEAR_TIMEOUTS: Final = 16
# With BBR no connection counts as thin, because to the kernel it never leaves slow start.
_WITHOUT_THIN: Final = b"bbr"
_INSTEAD: Final = (b"cubic", b"reno")
_MAX_NAME: Final = 16


def retransmit_soon(fd: int) -> None:
    """Make retransmissions come early: by default the fourth in a row takes three seconds."""
    if sys.platform != "linux":
        return
    level, option = socket.IPPROTO_TCP, socket.TCP_CONGESTION
    with contextlib.suppress(OSError), _copy_of(fd) as connection:
        connection.setsockopt(level, _TCP_THIN_LINEAR_TIMEOUTS, 1)
        if connection.getsockopt(level, option, _MAX_NAME).startswith(_WITHOUT_THIN):
            for name in _INSTEAD:
                # The machine's settings decide which ones an unprivileged process may choose.
                with contextlib.suppress(OSError):
                    connection.setsockopt(level, option, name)
                    return


def quiet_s(fd: int) -> float | None:
    """Returns the seconds since bytes came in, or since some of many sent ones were acknowledged.

    So a message that occupies a slow link for seconds does not count as silence.

    Returns None if this is unknown because there is no TCP connection, or no longer one.
    Acknowledgements alone only prove that the other side's kernel works, so they count only while
    much data is in flight.
    """
    if (info := _info(fd, _FIELDS)) is None:
        return None
    num_unacknowledged, data_ms, acknowledged_ms = info
    is_busy = num_unacknowledged >= _MANY_SEGMENTS
    return float(min(data_ms, acknowledged_ms) if is_busy else data_ms) / 1e3


def num_received(fd: int) -> int | None:
    """Returns the bytes that the kernel has received; None as in quiet_s()."""
    info = _info(fd, _RECEIVED)
    return None if info is None else int(info[0])


def cut(fd: int) -> None:
    """End a connection, whose owner finds it closed."""
    with contextlib.suppress(OSError), _copy_of(fd) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def _info(fd: int, fields: struct.Struct) -> tuple[int, ...] | None:
    if not hasattr(socket, "TCP_INFO"):
        return None
    with contextlib.suppress(OSError), _copy_of(fd) as connection:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, fields.size)
        return fields.unpack(info) if len(info) == fields.size else None
    return None


def _copy_of(fd: int) -> socket.socket:
    """Duplicate the descriptor, because its owner may close it at any moment. Raises OSError."""
    own_fd = os.dup(fd)
    try:
        return socket.socket(fileno=own_fd)
    except OSError:
        os.close(own_fd)
        raise
