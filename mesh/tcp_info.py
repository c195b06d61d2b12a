"""What the kernel knows of a TCP connection: whether bytes still come, or still go.

A message that occupies a slow link for seconds is no silence, though nothing else comes meanwhile.
"""

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
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        # A name of its own for it: ZeroMQ may close its own at any moment.
        with socket.socket(fileno=os.dup(fd)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
    except OSError:
        return None
    if len(info) < _FIELDS.size:
        return None
    num_unacknowledged, data_ms, acknowledged_ms = _FIELDS.unpack(info)
    if num_unacknowledged >= _MANY_SEGMENTS:
        return min(data_ms, acknowledged_ms) / 1e3
    return data_ms / 1e3
