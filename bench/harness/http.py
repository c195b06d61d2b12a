"""Requests to a gateway: their bytes, and clients that hang up within them."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import httpx

COMPLETIONS: Final = "/v1/completions"


def request_of(path: str, body: Any) -> bytes:
    """Returns the bytes of a POST request whose body is some value as JSON."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def port_of(url: str) -> int:
    """Returns the port of an API's base URL."""
    return int(url.rsplit(":", 1)[1].split("/")[0])


def http_client(port: int, timeout_s: float) -> httpx.AsyncClient:
    """Returns a client of a gateway on this machine, with as many connections as it needs."""
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
