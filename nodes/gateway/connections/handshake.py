"""TLS: the certificate, and a connection until its handshake is over.

asyncio's own TLS server gives a silent peer a minute, and reports a connection only after the
handshake; here a handshake has a deadline and counts as a connection from its start.
"""

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.gateway.connections.connection import MOST_REFUSED, READ_BYTES, Connection


def tls_context(config: GatewayConfig) -> ssl.SSLContext:
    """Load the certificate and its key. Raises ConfigError if the files are not such a pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"tls_cert = {config.tls_cert!r}, tls_key = {config.tls_key!r}: "
            f"PEM files of a certificate and its key are accepted "
            f"({error.strerror or 'the files are invalid'})"
        ) from None
    # asyncio makes a buffer of this size for each connection before its handshake. By default it
    # is 256 KiB, with which 3,100 strangers take 1 GB.
    SSLProtocol.max_size = READ_BYTES
    return context


class Handshake(asyncio.Protocol):
    """A connection during its TLS handshake; a Connection replaces it afterwards.

    context, connection: set in a subclass by the server.
    """

    context: ssl.SSLContext
    connection: type[Connection]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._made = self.connection(config, server_state, app_state, self._loop)
        self._early = bytearray()
        self._has_passed = False
        self._is_lost = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # uvicorn counts the members of this set, and calls shutdown() of each when it stops.
        connections: set[Any] = self._state.connections
        connections.add(self)
        if self._made.take_place(transport) > MOST_REFUSED:
            self._leave()
            transport.abort()
            return
        # All data from the peer is for start_tls(), not for this protocol.
        transport.pause_reading()
        self._task = self._loop.create_task(self._shake_hands(transport))
        self._state.tasks.add(self._task)
        self._task.add_done_callback(self._state.tasks.discard)

    def _leave(self) -> None:
        """End without a Connection."""
        connections: set[Any] = self._state.connections
        connections.discard(self)
        self._made.leave_strangers()

    async def _shake_hands(self, plain: asyncio.Transport) -> None:
        limit_s = self._made.limits.header_timeout_s
        try:
            secured = await self._loop.start_tls(
                plain,
                self,
                self.context,
                server_side=True,
                ssl_handshake_timeout=limit_s,
                ssl_shutdown_timeout=limit_s,
            )
            self._has_passed = secured is not None and not self._is_lost
        except OSError:
            # The handshake failed or took too long; asyncio has closed the connection.
            return
        finally:
            if not self._has_passed:
                self._leave()
        if secured is None or not self._has_passed:
            return
        connections: set[Any] = self._state.connections
        connections.discard(self)
        secured.set_protocol(self._made)
        self._made.connection_made(secured)
        if self._early:
            self._made.data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        """Keep data that arrives after the handshake and before the Connection takes over."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._has_passed:
            # asyncio chose this protocol for the call before the Connection replaced it.
            self._made.connection_lost(exc)

    def shutdown(self) -> None:
        """Cancel the handshake because the server stops."""
        if self._task is not None:
            self._task.cancel()
