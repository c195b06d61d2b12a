"""One HTTP connection: uvicorn's protocol, with limits on how long a peer may delay it.

uvicorn by itself waits for ever for the rest of a header or body, and at the end of a connection
for a peer that does not read. A connection beyond the maximum gets a 503 within a short time.
asyncio's own TLS server gives a silent peer a minute, and reports a connection only after the
handshake; here a handshake has a deadline and counts as a connection from its start.
"""

import asyncio
import logging
import math
import socket
import ssl
from http import HTTPStatus
from typing import Any, ClassVar, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from nodes.config.settings import ConfigError
from nodes.gateway.config import GatewayConfig, GatewayLimits
from nodes.gateway.errors import ApiError, unavailable

logger = logging.getLogger(__name__)

# A body gets one more second for each of these many bytes.
_BODY_BYTES_PER_S: Final = 65_536
_TRANSPORT_BYTES: Final = 16_384
_KERNEL_BYTES: Final = 65_536
# The number of connections beyond the maximum that get a 503 at a time, and the time each has.
_MOST_REFUSED: Final = 16
_REFUSAL_S: Final = 1.0
# Bytes kept of requests that arrived while an earlier one was still being answered.
_MOST_AHEAD_BYTES: Final = 65_536
# The interval between log lines while connections are being refused.
LOG_INTERVAL_S: Final = 10.0

_TIMED_OUT: Final = ApiError(
    408, "the request did not arrive in time", code="request_timeout", closes=True
)
_TOO_MANY: Final = unavailable(
    "all connections of the gateway are in use: try again later", closes=True
)


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with deadlines and a maximum number of connections.

    limits, max_connections: set in a subclass by the server. has_place: whether it was admitted
    before its TLS handshake.
    """

    limits: GatewayLimits
    max_connections: int
    _logged_at: ClassVar[float] = -math.inf

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Each request gets this state, through which a route can end its connection.
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._phase: object = None
        self._phase_began = 0.0
        self._phase_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._draining: asyncio.TimerHandle | None = None
        self._ahead = bytearray()
        self._is_refused = False
        self.has_place = False
        self._has_sent_refusal = False

    def abort(self) -> None:
        self.transport.abort()

    def end_after_this(self) -> None:
        """Close the connection after the answer that is being sent."""
        self.cycle.keep_alive = False

    def make_room(self, num_bytes: int) -> None:
        """Let so many bytes wait for the peer before the connection is full."""
        self.transport.set_write_buffer_limits(high=num_bytes, low=num_bytes)

    @property
    def is_full(self) -> bool:
        """Whether more bytes wait for the peer than there is room for."""
        return self.flow.write_paused

    @property
    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        num_over = len(self.connections) - self.max_connections
        if num_over > 0 and not self.has_place:
            self._refuse(num_over)
            return
        transport.set_write_buffer_limits(high=_TRANSPORT_BYTES)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        self._watch(0)

    def _refuse(self, num_over: int) -> None:
        """Refuse this connection: it gets a 503 once it has sent something."""
        self._is_refused = True
        self.say_refused()
        if num_over > _MOST_REFUSED:
            self.transport.abort()
        else:
            self._deadline = self.loop.call_later(_REFUSAL_S, self.transport.abort)

    def say_refused(self) -> None:
        """Log that there are too many connections, at most once in LOG_INTERVAL_S."""
        cls, now = type(self), self.loop.time()
        if now - cls._logged_at >= LOG_INTERVAL_S:
            cls._logged_at = now
            logger.warning("refusing connections: the limit is %d", self.max_connections)

    def _send_refusal(self) -> None:
        """Send the 503 once. Later data is read and dropped: a reset could destroy the answer."""
        if self._has_sent_refusal:
            return
        self._has_sent_refusal = True
        self.transport.write(_response(_TOO_MANY))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._send_refusal()
            return
        if self._is_answering():
            self._keep_ahead(data)
            return
        super().data_received(data)
        self._watch(len(data))
        if self._is_answering():
            # uvicorn stops reading when data follows the request. Then a closed connection would
            # not be noticed.
            self.flow.resume_reading()

    def _is_answering(self) -> bool:
        """Whether a request has arrived as a whole and its answer is not complete."""
        cycle = self.cycle
        is_whole = self.conn.their_state is h11.DONE
        return is_whole and cycle is not None and not cycle.response_complete

    def _keep_ahead(self, data: bytes) -> None:
        """Buffer data of later requests, and stop reading when the buffer is full."""
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD_BYTES:
            self.flow.pause_reading()

    def eof_received(self) -> None:
        super().eof_received()
        # The transport closes itself now, once the peer has read what waits for it.
        self._drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self._stop_draining()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            # After a reset uvicorn lets its timer run, which holds the connection and its last
            # request until then.
            self.timeout_keep_alive_task.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # From here on the rest of the answer waits for the peer to read.
        self._drain()
        if self.transport.is_closing():
            return
        if self._ahead and not self._is_answering():
            data, self._ahead = bytes(self._ahead), bytearray()
            self.data_received(data)
        elif self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            # The beginning of the next request came together with the one that was answered.
            self._watch(0)

    def _watch(self, num_bytes: int) -> None:
        """Note which part of a request is awaited and since when, and set its deadline."""
        phase: object = self.conn.their_state
        if phase is h11.IDLE and num_bytes and not self.conn.trailing_data[0]:
            # The end of a body that no route read, and no part of another request yet. uvicorn has
            # cancelled its keep-alive timer by now.
            phase = None
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        if phase is not self._phase:
            self._stop_watching()
            self._phase, self._phase_bytes = phase, 0
            if phase in (h11.IDLE, h11.SEND_BODY):
                self._phase_began = self.loop.time()
                self._deadline = self.loop.call_later(self._allowed_s(), self._check)
        self._phase_bytes += num_bytes

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _allowed_s(self) -> float:
        if self._phase is h11.IDLE:
            return self.limits.header_timeout_s
        # A body that is being discarded counts only up to the size that would be accepted.
        counted = min(self._phase_bytes, self.limits.max_body_bytes)
        return self.limits.body_timeout_s + counted / _BODY_BYTES_PER_S

    def _check(self) -> None:
        self._deadline = None
        if self.transport.is_closing() or self.conn.their_state is not self._phase:
            return
        left_s = self._phase_began + self._allowed_s() - self.loop.time()
        if left_s > 0:
            self._deadline = self.loop.call_later(left_s, self._check)
            return
        logger.info("closed a connection that did not send the rest of its request")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_response(_TIMED_OUT))
        self.transport.close()
        self._drain()

    def _drain(self, unsent_before: int = 0) -> None:
        """While data waits for the peer, check every write_timeout_s that it reads; abort the
        connection if it has read nothing."""
        self._stop_draining()
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == unsent_before:
            self.transport.abort()
        elif unsent:
            self._draining = self.loop.call_later(self.limits.write_timeout_s, self._drain, unsent)

    def _stop_draining(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not HTTP, or has too large a header, in the API's error shape."""
        self.transport.write(_response(ApiError(400, msg, closes=True)))
        self.transport.close()
        self._drain()


def _response(error: ApiError) -> bytes:
    content = error.content()
    sized = {"content-type": "application/json", "content-length": str(len(content))}
    headers = "".join(f"{name}: {value}\r\n" for name, value in (sized | error.headers()).items())
    phrase = HTTPStatus(error.status).phrase
    return f"HTTP/1.1 {error.status} {phrase}\r\n{headers}\r\n".encode() + content


# -- TLS -------------------------------------------------------------------------------------------


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
        if num_over > _MOST_REFUSED:
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
