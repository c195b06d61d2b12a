"""Listening sockets that the service manager opened: the protocol of sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from nodes.config.settings import ConfigError

_FIRST_FD = 3


def inherited(environ: Mapping[str, str], name: str) -> int | None:
    """Return the descriptor of the socket that was passed under a name, or None.

    The name is FileDescriptorName= of a socket unit. A unit without it passes its sockets under the
    unit's name, so a single socket is taken under any name. Raises ConfigError for several sockets
    of the name: only one is served, and clients of the others would wait for ever.
    """
    try:
        if int(environ.get("LISTEN_PID", "0")) != os.getpid():
            return None
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    meant = [0] if count == 1 else [k for k, other in enumerate(names[:count]) if other == name]
    if len(meant) > 1:
        raise ConfigError(
            f"the socket unit {name} has {len(meant)} ListenStream=, but only one is served: "
            f"write an empty ListenStream= before the one that replaces the others"
        )
    if not meant:
        return None
    fd = _FIRST_FD + meant[0]
    os.set_inheritable(fd, False)
    return fd


def endpoint_of(fd: int) -> str:
    """Return the address of a listening TCP or Unix socket as an endpoint of the mesh.

    Raises OSError if the descriptor is not a listening stream socket of these kinds.
    """
    with socket.socket(fileno=os.dup(fd)) as bound:
        is_listening = bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if bound.type != socket.SOCK_STREAM or not is_listening:
            raise OSError(f"descriptor {fd} is not a listening stream socket")
        address = bound.getsockname()
        if bound.family == socket.AF_INET:
            return f"tcp://{address[0]}:{address[1]}"
        if bound.family == socket.AF_INET6:
            return f"tcp://[{address[0]}]:{address[1]}"
        if bound.family == socket.AF_UNIX and isinstance(address, str) and address:
            return f"ipc://{address}"
    raise OSError(f"descriptor {fd} is bound to {address!r}: a TCP address or a path is accepted")
