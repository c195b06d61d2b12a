"""Run a gateway from its config, as a process of its own or beside a mesh in this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.zmq_transport import ZmqContext
from nodes.client import Client
from nodes.coordinator.access import GATEWAY
from nodes.gateway.config import GatewayConfig
from nodes.gateway.server import HttpServer
from nodes.roles import keyring, link_of
from nodes.runtime import raise_file_limit


async def run_gateway(config: GatewayConfig, on_started: Callable[[str], None]) -> None:
    """Bind and serve until cancelled. on_started gets the base URL of the API.

    While the coordinator cannot be reached requests are told so. Raises RefusedError where it does
    not let this gateway in.
    """
    raise_file_limit()
    endpoint, keys = link_of(config.connect, config.keys)
    with ZmqContext() as context:
        client = Client(
            context.connect(endpoint, keys),
            endpoint=endpoint,
            join_timeout_s=None,
            rejoins=True,
            role=GATEWAY,
        )
        server = HttpServer(client, config, keyring(config.keys).directory)
        linking = asyncio.create_task(client.run())
        serving = asyncio.create_task(server.serve(lambda: on_started(server.url)))
        try:
            await asyncio.wait({linking, serving}, return_when=asyncio.FIRST_COMPLETED)
            for task in (linking, serving):
                if task.done():
                    task.result()
        finally:
            # The link stays until the last streams have ended.
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            client.close()
            linking.cancel()
            await asyncio.gather(linking, return_exceptions=True)


async def serve_beside(
    client: Client, config: GatewayConfig, on_started: Callable[[str], None]
) -> None:
    """Serve the mesh that a client of this process is in."""
    raise_file_limit()
    server = HttpServer(client, config, keyring(config.keys).directory)
    await server.serve(lambda: on_started(server.url))
