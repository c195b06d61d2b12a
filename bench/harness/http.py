"""A minimal HTTP client on a socket: cheap, and it can hang up anywhere in an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

COMPLETIONS = "/v1/completions"
_LOOK_EVERY_S = 0.02
_ANSWER_LIMIT_S = 5.0


def request_of(path: str, body: Any = b"", *, method: str = "POST", key: str = "") -> bytes:
    """Return the bytes of a request. body: bytes, or what is sent as JSON. key: API key."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    bearer = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"{bearer}content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def port_of(url: str) -> int:
    """Return the port of an API's base URL."""
    return int(url.rsplit(":", 1)[1].split("/")[0])


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response. headers: names and values in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Return the events of a stream without its last one, which must be [DONE]."""
        parts = [part for part in self.body.split(b"\n\n") if part]
        assert parts.pop() == b"data: [DONE]", self.body[-200:]
        return [json.loads(part.removeprefix(b"data: ")) for part in parts]


class Connection:
    """One connection to a gateway for one request after another; reopened when needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = b"", key: str = "") -> Answer:
        """Send a request and return its response.

        Raises ConnectionError or IncompleteReadError if the gateway ends the connection.
        """
        await self._send(request_of(path, body, method=method, key=key))
        return await self._read()

    async def leave(self, request: bytes, num_bytes: int, after_s: float) -> None:
        """Send a request or a part of one, read num_bytes of the response, and hang up.

        after_s: time until then.
        """
        await self._send(request)
        assert self._streams is not None
        while num_bytes > 0 and (part := await self._streams[0].read(min(num_bytes, 4096))):
            num_bytes -= len(part)
        await asyncio.sleep(after_s)
        self._streams[1].transport.abort()
        self._streams = None

    async def _send(self, request: bytes) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self._streams[1].write(request)
        await self._streams[1].drain()

    async def _read(self) -> Answer:
        assert self._streams is not None
        reader, _ = self._streams
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            await self.close()
        return Answer(int(first.split()[1]), headers, body)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def until_ready(port: int, limit_s: float, *, is_ready: bool = True) -> bool:
    """Wait until a gateway can serve, or no longer can; return whether that was so in time."""
    give_up_at = time.monotonic() + limit_s
    connection = Connection(port)
    try:
        while time.monotonic() < give_up_at:
            found = None
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(_ANSWER_LIMIT_S):
                    found = (await connection.ask("GET", "/readyz")).status == 200
            if found is None:
                # The connection may have been cut off within an answer.
                await connection.close()
            elif found == is_ready:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False
    finally:
        await connection.close()
