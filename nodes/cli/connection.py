"""Functions that commands share: running to an end, and reaching a mesh or its keys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mesh.errors import KeysError
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.keys.keyring import Keyring
from nodes.service.roles import keyring, link_of
from nodes.service.runtime import run

T = TypeVar("T")


def run_to_end(main: Callable[[], Awaitable[None]], **options: Any) -> None:
    """Run a coroutine as runtime.run() does; if it fails, exit with its code."""
    if code := run(main, **options):
        sys.exit(code)


def run_to_result(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine and return its result; if it fails, exit with a line and a code."""
    result: list[T] = []

    async def keep() -> None:
        result.append(await work())

    run_to_end(keep)
    return result[0]


async def with_client(
    connect: str | None,
    keys: str | None,
    work: Callable[[Client], Awaitable[T]],
    *,
    role: str = "client",
) -> T:
    """Run `work` and return its result. An error that ends the connection is raised at once."""
    endpoint, client_keys = link_of(connect or "", keys or "")
    with ZmqContext() as context:
        client = Client(context.connect(endpoint, client_keys), endpoint=endpoint, role=role)
        return await beside(client, work(client))


async def beside(client: Client, work: Awaitable[T]) -> T:
    """Return the result of `work`, during which the client runs, and close the client."""
    serving = asyncio.create_task(client.run())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait([serving, working], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        return await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def coordinator_keyring(keys: str | None) -> Keyring:
    """The keys of this machine's coordinator; only its service may be able to read the secret key.

    Raises KeysError if there are none.
    """
    ring = keyring(keys or "")
    if ring.coordinator_public() is None:
        raise KeysError(
            f"{ring.directory} has no coordinator's key: run `airdraft keys init` first"
        )
    return ring
