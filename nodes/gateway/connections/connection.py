"""One HTTP connection: uvicorn's protocol, with limits on what a peer may cost and delay.

uvicorn by itself reads and parses whatever has arrived in one turn of the loop, parses bodies that
nobody wants, and waits for ever for the rest of a header or body and for a peer that does not read.
Here a turn reads and parses a little of each connection, a body is parsed once it is asked for,
and each wait has a deadline. A connection beyond the maximum gets a 503 within a short time.
"""

import asyncio
import logging
import socket
from typing import Any, Final

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.connections.admission import Admission
from airdraft.nodes.gateway.connections.deadlines import ReadingDeadline, RequestDeadline
from airdraft.nodes.gateway.connections.parser import Parser
from airdraft.nodes.gateway.connections.strangers import Origin
from airdraft.nodes.gateway.errors import ApiError, unavailable

logger = logging.getLogger(__name__)

# What a turn reads of a connection: a TLS record. asyncio reads 256 KiB by itself.
READ_BYTES: Final = 16_384
_TRANSPORT_BYTES: Final = 16_384
_KERNEL_BYTES: Final = 65_536
# The number of connections beyond a maximum that get a 503 at a time, and the time each has.
MOST_REFUSED: Final = 16
_REFUSAL_S: Final = 1.0
# The time for a peer to read an answer before the rest of its request destroys it by a reset.
_LINGER_S: Final = 2.0
# Bytes kept of requests that arrived while an earlier one was still being answered.
_MOST_AHEAD_BYTES: Final = 65_536

_TIMED_OUT: Final = ApiError(
    408, "the request did not arrive in time", code="request_timeout", closes=True
)
_TOO_MANY: Final = unavailable(
    "all connections of the gateway are in use: try again later", closes=True
)
_STRANGERS: Final = unavailable(
    "too many connections from your address have shown no API key: close some", closes=True
)
# asyncio fills it and hands it over in one call, so all connections can share it.
_BUFFER: Final = memoryview(bytearray(READ_BYTES))


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's HTTP/1.1 protocol with its limits.

    limits, admission: set in a subclass by the server.
    """

    limits: GatewayLimits
    admission: Admission

    conn: Parser
    flow: "_Flow"
    _reading: ReadingDeadline

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Each request gets this state, through which a route can end its connection.
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self.conn = Parser(self.limits.max_header_bytes)
        self.app = self._answer
        self._request = RequestDeadline(self.loop, self.limits, self._on_late)
        # Ends a connection that is over.
        self._ending: asyncio.TimerHandle | None = None
        self._going_on: asyncio.Handle | None = None
        self._ahead = bytearray()
        self._num_over: int | None = None
        # What a stranger's connection is counted by; None if it is not counted.
        self._origin: Origin | None = None
        # Whether what arrives is dropped, and how much of it there was.
        self._is_over = False
        self._num_dropped_bytes = 0

    def abort(self) -> None:
        self.transport.abort()

    def end_after_this(self) -> None:
        """Close the connection after the answer that is being sent."""
        if self.cycle is not None:
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
        return self._is_over or self.transport.is_closing()

    # -- the beginning and the end -----------------------------------------------------------------

    def take_place(self, transport: asyncio.BaseTransport) -> int:
        """Count this connection. Returns by how many it is over a limit, and 0 if it is not."""
        peer = transport.get_extra_info("peername")
        host = str(peer[0]) if peer else ""
        self._origin, num_over = self.admission.enter(host, len(self.connections))
        self._num_over = max(num_over, 0)
        return self._num_over

    def leave_strangers(self) -> None:
        """It has shown a valid key, or needs none, or it has ended."""
        if self._origin is not None:
            self.admission.leave(self._origin)
            self._origin = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._reading = ReadingDeadline(self.loop, transport, self.limits.write_timeout_s)
        # With TLS, it has had its place since before the handshake.
        num_over = self.take_place(transport) if self._num_over is None else self._num_over
        if num_over > MOST_REFUSED:
            transport.abort()
        elif num_over:
            # It gets a 503 once it has sent something.
            self._ending = self.loop.call_later(_REFUSAL_S, transport.abort)
        else:
            transport.set_write_buffer_limits(high=_TRANSPORT_BYTES)
            raw = transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            self._watch()

    def eof_received(self) -> None:
        super().eof_received()
        # The transport closes itself now, once the peer has read what waits for it.
        self._reading.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave_strangers()
        self._request.stop()
        self._reading.stop()
        self._stop_parsing()
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            # After a reset uvicorn lets its timer run, which holds the connection and its last
            # request until then.
            self.timeout_keep_alive_task.cancel()
        self._forget_cycles()

    def _forget_cycles(self) -> None:
        """Drop what refers back to this connection. Otherwise its memory, 72 KiB with TLS, would
        wait for a run of the garbage collector, while strangers open the next ones."""
        self._request.forget()
        self.app_state = {}
        self.app = self.scope = self.headers = self.cycle = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        # Whoever writes waits for the peer to read, but not for ever.
        self._reading.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reading.start()

    async def until_read(self) -> None:
        """Wait until there is room for more, or the connection has ended."""
        await self.flow.drain()

    def shutdown(self) -> None:
        """The server stops."""
        if self._is_over or self._num_over:
            self.transport.close()
        else:
            super().shutdown()

    def close(self) -> None:
        """Close the connection after an answer."""
        if self.conn.is_request_whole:
            self.transport.close()
        else:
            self._linger()

    def _reject(self, error: ApiError) -> None:
        """Answer in place of the application, and read nothing more."""
        self.transport.write(error.response())
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._linger()

    def _linger(self) -> None:
        """End the connection, but read and drop what arrives for a short time: a reset could
        destroy the answer."""
        self._is_over = True
        self._request.stop()
        self._stop_parsing()
        self.flow.is_behind = False
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._ending is None:
            self._ending = self.loop.call_later(_LINGER_S, self._give_up)
        self._reading.start()

    def _give_up(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.close()
        else:
            self.transport.abort()

    # -- reading -----------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if not self._is_over:
            self.data_received(bytes(_BUFFER[:nbytes]))
            return
        self._num_dropped_bytes += nbytes
        if self._num_dropped_bytes > self.limits.max_body_bytes:
            self._give_up()

    def data_received(self, data: bytes) -> None:
        if self._num_over:
            self._reject(_TOO_MANY if self._origin is None else _STRANGERS)
        elif self._is_answering():
            self._keep_ahead(data)
        else:
            super().data_received(data)
            self._request.received(len(data))

    def handle_events(self) -> None:
        """Parse what has arrived, and go on in the next turn of the loop if it is much."""
        self._stop_parsing()
        if self.is_closing:
            return
        self.conn.begin_turn()
        super().handle_events()
        self.flow.is_behind = self.conn.is_behind
        if self._is_over:
            return
        if self.conn.is_behind and not self.conn.is_held:
            self._going_on = self.loop.call_soon(self.handle_events)
        if self._is_answering() or self.cycle is None or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            # uvicorn stops reading when data follows the request. Then a closed connection would
            # not be noticed.
            self.flow.resume_reading()
        self._watch()

    def _stop_parsing(self) -> None:
        if self._going_on is not None:
            self._going_on.cancel()
            self._going_on = None

    def _is_answering(self) -> bool:
        """Whether a request has arrived as a whole and its answer is not complete."""
        cycle = self.cycle
        return self.conn.is_request_whole and cycle is not None and not cycle.response_complete

    def _keep_ahead(self, data: bytes) -> None:
        """Buffer data of later requests, and stop reading when the buffer is full."""
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD_BYTES:
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not HTTP, or beyond a bound, in the API's error shape."""
        self._reject(ApiError(400, self.conn.refusal or msg, closes=True))

    # -- answering ---------------------------------------------------------------------------------

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer. The body is parsed from when the application asks for it, so
        that whoever is refused by the header costs no more than that."""
        # uvicorn closes the connection after the last answer through this.
        self.cycle.transport = _Closing(self)

        async def receiving() -> Message:
            if self.conn.is_held:
                self.conn.is_held = False
                self.handle_events()
            return await receive()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and not self.conn.is_request_whole:
                headers = [pair for pair in message.get("headers", ()) if pair != CLOSE_HEADER]
                message = {**message, "headers": [*headers, CLOSE_HEADER]}
            await send(message)

        await self.config.loaded_app(scope, receiving, sending)

    def on_response_complete(self) -> None:
        if self._is_over:
            return
        super().on_response_complete()
        # From here on the rest of the answer waits for the peer to read.
        self._reading.start()
        if self._ahead and not self.is_closing and not self._is_answering():
            data, self._ahead = bytes(self._ahead), bytearray()
            self.data_received(data)

    # -- deadlines ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Set the deadline for the part of a request that is awaited."""
        phase: object = self.conn.their_state
        is_idle = phase is h11.IDLE and self.cycle is not None and not self.conn.trailing_data[0]
        # uvicorn's keep-alive timer runs while no part of another request has arrived.
        self._request.await_part(None if is_idle or self.conn.is_held else phase)

    def _on_late(self) -> None:
        if self.is_closing:
            return
        logger.info("closed a connection that did not send the rest of its request")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._reject(_TIMED_OUT)
        else:
            self.transport.abort()


class _Flow(FlowControl):
    """is_behind: nothing is read until what has arrived is parsed, whoever asks for more."""

    is_behind = False

    def resume_reading(self) -> None:
        if not self.is_behind:
            super().resume_reading()


class _Closing(asyncio.Transport):
    """A transport for answers: closing it is left to the connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.transport.write(data)

    def is_closing(self) -> bool:
        return self._connection.is_closing

    def close(self) -> None:
        self._connection.close()
