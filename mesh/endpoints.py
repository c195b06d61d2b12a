"""Checks endpoints before they are used: `tcp://host:port` and `ipc:///path`."""

import errno
import ipaddress
import os
import re
import socket
import stat

from airdraft.mesh.errors import AddressInUseError, EndpointError, InsecureEndpointError

_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(\d{1,5}|\*)")
_IPC = re.compile(r"ipc://(/[^\0]+)")
_MAX_IPC_PATH_BYTES = 107  # sun_path without its terminating zero
_LIVENESS_PROBE_S = 1.0


def check_bind(endpoint: str) -> str:
    """Returns the endpoint in the form that ZeroMQ binds. Port 0: the kernel picks one."""
    if ipc_path(endpoint) is not None:
        return endpoint
    host, port = _tcp_parts(endpoint)
    # ZeroMQ does not resolve names when it binds.
    host = "127.0.0.1" if host == "localhost" else host
    return f"tcp://{host}:{'*' if port in ('0', '*') else port}"


def check_connect(endpoint: str) -> str:
    """Returns the endpoint in the form that ZeroMQ connects to."""
    if ipc_path(endpoint) is None:
        host, port = _tcp_parts(endpoint)
        if host == "*" or port in ("0", "*"):
            raise EndpointError(endpoint, "connecting needs a host and a port from 1 to 65535")
    return endpoint


def check_secure(endpoint: str) -> None:
    """Raise InsecureEndpointError unless only this machine can be at the other end."""
    if not is_loopback(endpoint):
        raise InsecureEndpointError(endpoint)


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can be at the other end."""
    if ipc_path(endpoint) is not None:
        return True
    host, _ = _tcp_parts(endpoint)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # A name may resolve to anything.
        return False


def on_this_machine(endpoint: str) -> str:
    """Returns an endpoint bound on all addresses as a loopback one; others stay as they are."""
    for anywhere, here in (("0.0.0.0", "127.0.0.1"), ("*", "127.0.0.1"), ("[::]", "[::1]")):
        if endpoint.startswith(f"tcp://{anywhere}:"):
            return f"tcp://{here}:{endpoint.removeprefix(f'tcp://{anywhere}:')}"
    return endpoint


def reached_at(bound: str, towards: str) -> str:
    """Returns the endpoint by which the machine at `towards` reaches one that is bound here.

    One that is bound at all addresses gets that from which this machine reaches the other one.
    """
    here = on_this_machine(bound)
    if here == bound or is_loopback(towards):
        return here
    host, port = _tcp_parts(towards)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # A datagram socket sends nothing when it connects.
            probe.connect((host.strip("[]"), int(port)))
            address = probe.getsockname()[0]
    except OSError as error:
        raise EndpointError(towards, f"cannot be reached: {error.strerror or error}") from error
    shown = f"[{address}]" if family == socket.AF_INET6 else address
    return f"tcp://{shown}:{_tcp_parts(bound)[1]}"


def ipc_path(endpoint: str) -> str | None:
    """Returns the socket file of an ipc endpoint, None for another kind of endpoint."""
    if not endpoint.startswith("ipc:"):
        return None
    match = _IPC.fullmatch(endpoint)
    if match is None:
        raise EndpointError(endpoint, "expected ipc:///absolute/path")
    if len(os.fsencode(match[1])) > _MAX_IPC_PATH_BYTES:
        raise EndpointError(endpoint, f"the path is longer than {_MAX_IPC_PATH_BYTES} bytes")
    return match[1]


def listens(path: str) -> bool:
    """Whether a process accepts connections at a socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_LIVENESS_PROBE_S)
        return probe.connect_ex(path) in (0, errno.EAGAIN)


def clear_stale_socket(endpoint: str, path: str) -> None:
    """Remove the socket file of a dead process. Raises AddressInUseError if a process listens.

    ZeroMQ would replace even a socket file in use, and its owner would get no more connections.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressInUseError(endpoint, "the path is not a socket: remove that file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_LIVENESS_PROBE_S)
        result = probe.connect_ex(path)
    if result == errno.ECONNREFUSED:
        os.unlink(path)
    elif result != errno.ENOENT:
        raise AddressInUseError(endpoint)


def _tcp_parts(endpoint: str) -> tuple[str, str]:
    match = _TCP.fullmatch(endpoint)
    if match is None:
        raise EndpointError(endpoint, "expected tcp://host:port or ipc:///path")
    host, port = match.groups()
    if port != "*" and int(port) > 65535:
        raise EndpointError(endpoint, "the port is above 65535")
    return host, port
