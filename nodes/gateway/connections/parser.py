"""h11's parser of HTTP/1.1, with bounds on what a turn of the loop and a request may cost.

h11 bounds bytes, but its work for some bytes is far more than for others: it makes an event of each
chunk, however short, and takes time that grows with the square of a line that is not a header's.
"""

import re
from typing import Final, Literal

import h11

# Parsing an event takes some 5 us (2 cores of an x86, 2026-12-01), so a turn takes 0.3 ms.
_EVENTS_PER_TURN: Final = 64
# Pieces of a body that come whatever their size, and the average size of any further ones.
_FREE_PIECES: Final = 1024
_LEAST_PIECE_BYTES: Final = 64
# Clients send some 10 headers, and proxies add as many.
_MOST_HEADERS: Final = 128
# Longer than any path of the API. Decoding the percent signs of 15 KB takes up to 20 ms.
_MOST_REQUEST_LINE_BYTES: Final = 2048
# A chunk's size and its extensions, which nobody uses.
_MOST_CHUNK_LINE_BYTES: Final = 256
# No header may hold these. For a line that does, h11 takes the square of the spaces before them:
# 0.7 s for 16 KiB.
_NEVER_IN_HEADERS: Final = b"\x00\x0b\x0c"
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_ZERO_CHUNK: Final = re.compile(rb"0+[ \t]*(;|$)")
_BEFORE_THE_END: Final = frozenset({h11.IDLE, h11.SEND_BODY, h11.ERROR})

_Place = Literal["head", "chunk line", "trailers", "data"]
# What next_event() returns besides an event.
_NoEvent = type[h11.NEED_DATA] | type[h11.PAUSED]


class Parser(h11.Connection):
    """The server's side of a connection.

    is_held: the body is not parsed, because nobody has asked for it. is_behind: what has arrived is
    not parsed as far as it could be, because the body is held or the turn is used up. refusal: why
    the last input was refused, if it was one of the bounds here; "" otherwise.
    """

    def __init__(self, max_header_bytes: int) -> None:
        super().__init__(h11.SERVER, max_header_bytes)
        self.is_held = False
        self.is_behind = False
        self.refusal = ""
        self._num_events_left = 0
        self._place: _Place = "head"
        self._num_pieces = 0
        self._num_body_bytes = 0

    def begin_turn(self) -> None:
        """Allow the next events."""
        self._num_events_left = _EVENTS_PER_TURN
        self.is_behind = False

    @property
    def is_request_whole(self) -> bool:
        """Whether a request has arrived to its end, and the next one is not being read."""
        return self.their_state not in _BEFORE_THE_END

    def next_event(self) -> h11.Event | _NoEvent:
        """As of h11. It returns PAUSED, too, while the body is held or the turn is used up."""
        if self.is_held or not self._num_events_left:
            self.is_behind = True
            return h11.PAUSED
        self._num_events_left -= 1
        self._check_lines()
        event = super().next_event()
        match event:
            case h11.Request():
                self._on_request(event)
            case h11.Data():
                self._on_data(event)
            case h11.EndOfMessage():
                self._place = "head"
        return event

    def _on_request(self, request: h11.Request) -> None:
        framing = {name: value for name, value in request.headers if name in _FRAMING}
        is_chunked = b"transfer-encoding" in framing
        if is_chunked and (len(framing) > 1 or request.http_version < b"1.1"):
            # Whoever stands before the gateway may have read it as another request.
            self._refuse("Transfer-Encoding goes with HTTP/1.1 and without Content-Length only")
        self.is_held = is_chunked or int(framing.get(b"content-length", b"0")) > 0
        self._place = "chunk line" if is_chunked else "data"
        self._num_pieces = self._num_body_bytes = 0

    def _on_data(self, data: h11.Data) -> None:
        self._num_pieces += 1
        self._num_body_bytes += len(data.data)
        if self._num_pieces > _FREE_PIECES + self._num_body_bytes // _LEAST_PIECE_BYTES:
            self._refuse("the body came in too many small pieces")
        if data.chunk_end:
            self._place = "chunk line"
        elif data.chunk_start:
            self._place = "data"

    def _check_lines(self) -> None:
        """Refuse lines that would cost much, before h11 parses them."""
        if self._place == "data" or self.is_request_whole:
            return
        waiting, _ = self.trailing_data
        if self._place == "chunk line":
            # The line end of the chunk before it may have been parsed already.
            line, end, rest = waiting.lstrip(b"\r\n").partition(b"\r\n")
            if len(line) > _MOST_CHUNK_LINE_BYTES:
                self._refuse("the line before a chunk is too long")
            if not (end and _ZERO_CHUNK.match(line)):
                return
            self._place, waiting = "trailers", rest
        elif self._place == "head" and len(waiting) >= _MOST_REQUEST_LINE_BYTES:
            start = waiting[:_MOST_REQUEST_LINE_BYTES]
            if b"\n" not in start:
                self._refuse("the request line is too long")
        if not waiting.startswith(b"\r\n"):
            self._check_headers(waiting)

    def _check_headers(self, waiting: bytes) -> None:
        head, end, _ = waiting.partition(b"\r\n\r\n")
        if not end:
            head = head.removesuffix(b"\r")
        num_lines = head.count(b"\r\n")
        if num_lines > _MOST_HEADERS:
            self._refuse(f"there are more than {_MOST_HEADERS} headers")
        is_odd = head.count(b"\r") + head.count(b"\n") != 2 * num_lines
        if is_odd or any(byte in head for byte in _NEVER_IN_HEADERS):
            self._refuse("a header holds a control character")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        raise h11.RemoteProtocolError(reason)
