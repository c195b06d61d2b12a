"""Sends an answer that is made in pieces, with turns for other requests between them."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from airdraft.nodes.gateway.guard import connection_of

# Pieces are put together to parts of this size. Smaller answers are sent at once.
_PART_BYTES: Final = 65_536
_JSON: Final = "application/json"


class JsonInPieces:
    """An ASGI application that sends a JSON document.

    It waits for the reader, whose connection has a deadline, and makes a piece only when the ones
    before it are sent. pieces: of the document; each is made in some milliseconds.
    """

    def __init__(self, pieces: Iterable[bytes], headers: Mapping[str, str]) -> None:
        self._pieces = pieces
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ClientDisconnect."""
        connection = connection_of(scope)
        part, has_begun = bytearray(), False
        for piece in self._pieces:
            part += piece
            # Others take their turns.
            await asyncio.sleep(0)
            if len(part) < _PART_BYTES:
                continue
            if not has_begun:
                headers = Headers({"content-type": _JSON, **self._headers}).raw
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                has_begun = True
            await send({"type": "http.response.body", "body": bytes(part), "more_body": True})
            part.clear()
            if connection.is_closing:
                await _until_left(receive)
                raise ClientDisconnect
        if has_begun:
            await send({"type": "http.response.body", "body": bytes(part), "more_body": False})
            return
        response = Response(bytes(part), headers=dict(self._headers), media_type=_JSON)
        await response(scope, receive, send)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
