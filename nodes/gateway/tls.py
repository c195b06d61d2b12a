"""TLS in front of HTTP: a handshake has a deadline and counts as a connection from its start.

asyncio's own TLS server gives a silent peer a minute, and reports a connection only after the
handshake.
"""

import asyncio
import ssl
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from nodes.config.settings import ConfigError
from nodes.gateway.config import GatewayConfig
from nodes.gateway.connection import MOST_REFUSED, Connection


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
        num_over = len(connections) - self._made.max_connections
        if num_over > MOST_REFUSED:
            self._made.say_refused()
            connections.discard(self)
            transport.abort()
            return
        self._made.has_place = num_over <= 0
        # All data from the peer is for start_tls(), not for this protocol.
        transport.pause_reading()
        self._task = self._loop.create_task(self._shake_hands(transport))
        self._state.tasks.add(self._task)
        self._task.add_done_callback(self._state.tasks.discard)

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
        except OSError:
            # The handshake failed or took too long; asyncio has closed the connection.
            return
        finally:
            connections: set[Any] = self._state.connections
            connections.discard(self)
        if secured is None or self._is_lost:
            return
        self._has_passed = True
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
