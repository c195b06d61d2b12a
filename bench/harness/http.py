"""Requests to a gateway: their bytes, for who hangs up within them, and whether it can serve."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

import httpx

COMPLETIONS: Final = "/v1/completions"
_LOOK_EVERY_S = 0.02
_ANSWER_LIMIT_S = 5.0


def request_of(path: str, body: Any) -> bytes:
    """Return the bytes of a POST request whose body is some value as JSON."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def port_of(url: str) -> int:
    """Return the port of an API's base URL."""
    return int(url.rsplit(":", 1)[1].split("/")[0])


def http_client(port: int, timeout_s: float) -> httpx.AsyncClient:
    """Return a client of a gateway on this machine, with as many connections as it needs."""
    # Without TLS there is nothing to verify, and loading certificates takes long.
    limits = httpx.Limits(max_connections=None)
    url = f"http://127.0.0.1:{port}"
    return httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=limits, verify=False)


async def leave(port: int, request: bytes, num_bytes: int, after_s: float) -> None:
    """Send a request or a part of one, read num_bytes of the response, and hang up.

    after_s: time until then.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        while num_bytes > 0 and (part := await reader.read(min(num_bytes, 4096))):
            num_bytes -= len(part)
        await asyncio.sleep(after_s)
    finally:
        writer.transport.abort()


async def until_ready(port: int, limit_s: float, *, is_ready: bool = True) -> bool:
    """Wait until a gateway can serve, or no longer can; return whether that was so in time."""
    give_up_at = time.monotonic() + limit_s
    async with http_client(port, _ANSWER_LIMIT_S) as http:
        while time.monotonic() < give_up_at:
            try:
                found = (await http.get("/readyz")).status_code == 200
            except httpx.HTTPError:
                # It does not listen yet, or has ended within the answer.
                found = False
            if found == is_ready:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
    return False
