"""Creates, binds, connects and ends the ZeroMQ sockets and threads of one process."""

import errno
import logging
import threading
from typing import Any, Final, Self

import zmq

from airdraft.mesh.endpoints import (
    check_bind,
    check_connect,
    check_secure,
    clear_stale_socket,
    ipc_path,
)
from airdraft.mesh.errors import AddressInUseError, EndpointError, SecurityError
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.messages import MAX_MESSAGE_BYTES
from airdraft.mesh.security import ServerKeys, ZapHandler, client_options, server_options
from airdraft.mesh.tcp import num_received
from airdraft.mesh.transport import MAX_QUEUED_MESSAGES
from airdraft.mesh.unread import MOST_UNREAD_BYTES, BarredKeys, Unread
from airdraft.mesh.zmq_endpoint import ZmqEndpoint, ZmqMonitor
from airdraft.mesh.zmq_sockets import ZmqClient, ZmqServer

logger = logging.getLogger(__name__)

LINGER_MS: Final = 500
_TERM_LIMIT_S: Final = 2.0
# A monitored socket takes two more.
_MAX_SOCKETS: Final = 4_096
# Class selector 5, which Wi-Fi maps to its access category video (RFC 8325).
_INTERACTIVE_TOS: Final = 5 << 5
_SOCKET_OPTIONS: Final = {
    zmq.SNDHWM: MAX_QUEUED_MESSAGES,
    zmq.RCVHWM: MAX_QUEUED_MESSAGES,
    zmq.LINGER: LINGER_MS,
    zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
    zmq.HANDSHAKE_IVL: 2000,
    # Each attempt comes 250 to 500 ms after the last. ZeroMQ adds a random part only if there is no
    # maximum; without it all members of a lost coordinator would reconnect at the same time.
    zmq.RECONNECT_IVL: 250,
    zmq.RECONNECT_IVL_MAX: 0,
    # The kernel's own attempts become a minute apart, but a host that returns should be found
    # within two seconds. So the kernel makes two attempts, 1 s apart, and then a new one starts.
    zmq.CONNECT_TIMEOUT: 1500,
    # No ZMTP heartbeats: libzmq 4.3.5 aborts the process when one falls due after a connection was
    # lost with a full receive queue (issues 3937, 4364, 4767). The application has its own
    # heartbeats, and data that stays unacknowledged ends a half-open TCP connection.
    zmq.HEARTBEAT_IVL: 0,
    zmq.TCP_MAXRT: 3000,
    # Connections that wait for free files are in the kernel's queue, together with those that have
    # given up since. While it is full, a new connection has to try again after a second.
    zmq.BACKLOG: 1024,
}


def libzmq_version() -> str:
    return zmq.zmq_version()


class ZmqContext:
    """Owns the sockets and ZeroMQ's threads of one process; a context manager."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._endpoints: list[ZmqEndpoint] = []
        self._zap: ZapHandler | None = None

    def bind(
        self,
        endpoint: str,
        keys: ServerKeys | None = None,
        *,
        interactive: bool = False,
        fd: int | None = None,
        most_unread_bytes: int = MOST_UNREAD_BYTES,
    ) -> ZmqServer:
        """Bind a server socket.

        keys: only peers that authenticate are accepted; without keys only loopback is allowed.
        interactive: mark packets so that Wi-Fi sends them in the access category video. fd:
        descriptor of a socket that already listens there and is used instead. most_unread_bytes:
        how many may arrive over all connections before they are read.

        Raises EndpointError, InsecureEndpointError, AddressInUseError or SecurityError.
        """
        address = check_bind(endpoint)
        unread, barred = Unread(num_received, most_unread_bytes), BarredKeys()
        if keys is None:
            check_secure(endpoint)
        elif self._zap is None:
            # The handler starts before the bind, because without it every peer would be refused.
            authenticate = keys.authenticate
            self._zap = ZapHandler(
                self._context,
                lambda key: key not in barred and authenticate(key),
                self._on_zap_death,
            )
        else:
            raise SecurityError("a context can bind only one endpoint with keys")
        path = ipc_path(endpoint)
        if path is not None and fd is None:
            clear_stale_socket(endpoint, path)
        curve = {} if keys is None else server_options(keys)
        options = {zmq.ROUTER_MANDATORY: 1, **_ipv6(address), **_mark(interactive), **curve}
        if fd is not None:
            options[zmq.USE_FD] = fd
        socket = self._socket(zmq.ROUTER, options)
        monitor = ZmqMonitor(socket, unread)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            monitor.close()
            socket.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUseError(endpoint) from error
            if error.errno == errno.ENODEV:
                raise EndpointError(endpoint, "binding needs an address of this host") from error
            raise EndpointError(endpoint, str(error.strerror)) from error
        bound = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        kind = {"has_keys": keys is not None, "is_inherited": fd is not None}
        server = ZmqServer(socket, bound, monitor, unread, barred, **kind)
        self._endpoints.append(server)
        return server

    def _on_zap_death(self, error: SecurityError) -> None:
        """Make all endpoints fail; called from the handler's thread.

        Otherwise the lack of messages would look like a lack of traffic.
        """
        logger.critical("%s", error)
        for endpoint in self._endpoints:
            endpoint.fail_soon(error)

    def connect(
        self, endpoint: str, keys: ClientKeys | None = None, *, interactive: bool = False
    ) -> ZmqClient:
        """Start to connect and return at once; await writable() for the connection.

        interactive: as in bind(). Raises EndpointError or InsecureEndpointError.
        """
        address = check_connect(endpoint)
        if keys is None:
            check_secure(endpoint)
        curve = {} if keys is None else client_options(keys)
        # IMMEDIATE: without a connection a send fails instead of filling a queue.
        options = {zmq.IMMEDIATE: 1, **_ipv6(address), **_mark(interactive), **curve}
        socket = self._socket(zmq.DEALER, options)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close()
            raise EndpointError(endpoint, str(error.strerror)) from error
        client = ZmqClient(socket, address)
        self._endpoints.append(client)
        return client

    def close(self) -> None:
        """Close every socket and end ZeroMQ's threads, within about two seconds."""
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()
        if self._zap is not None:
            self._zap.stop()
        # Every linger time is finite, so this ends; the limit guards against faults in ZeroMQ.
        ending = threading.Thread(target=self._context.term, name="zmq-term", daemon=True)
        ending.start()
        ending.join(_TERM_LIMIT_S)
        if ending.is_alive():
            logger.warning("ZeroMQ did not end within %s s; exiting without it", _TERM_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _socket(self, kind: int, options: dict[Any, Any]) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        for option, value in {**_SOCKET_OPTIONS, **options}.items():
            socket.setsockopt(option, value)
        return socket


def _mark(interactive: bool) -> dict[Any, int]:
    return {zmq.TOS: _INTERACTIVE_TOS} if interactive else {}


def _ipv6(address: str) -> dict[Any, int]:
    return {zmq.IPV6: 1} if address.startswith("tcp://[") else {}
