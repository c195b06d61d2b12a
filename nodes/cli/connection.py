"""Runs one piece of work with a connected client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.service.roles import link_of

T = TypeVar("T")

connect_option = click.option(
    "--connect",
    default="",
    metavar="ENDPOINT",
    help="The coordinator's endpoint.  [default: the mesh that this machine joined, else the one "
    "on this machine]",
)


async def with_client(
    connect: str,
    keys: str | None,
    work: Callable[[Client], Awaitable[T]],
    *,
    role: str = "client",
) -> T:
    """Run `work` and return its result. An error that ends the connection is raised at once."""
    endpoint, client_keys = link_of(connect, keys or "")
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
