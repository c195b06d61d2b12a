"""Runs a gateway from its config, as its own process or in the process of a mesh."""

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.config.settings import ConfigError, environment
from nodes.gateway.config import GatewayConfig
from nodes.gateway.server import HttpServer
from nodes.messages.access import GATEWAY
from nodes.service.roles import keyring
from nodes.service.runtime import beside, raise_file_limit
from nodes.service.systemd import Manager, endpoint_of, inherited

# Equals FileDescriptorName= in the gateway's socket unit.
SOCKET_NAME: Final = "http"


async def run_gateway(config: GatewayConfig, on_started: Callable[[str], None]) -> None:
    """Bind and serve until cancelled. on_started gets the base URL of the API.

    While the coordinator is unreachable, requests get status 503. Raises RefusedError if the
    coordinator does not admit this gateway.
    """
    raise_file_limit()
    # The socket that the service manager opened for this process.
    fd = inherited(environment(), SOCKET_NAME)
    bound = None if fd is None else socket.socket(fileno=fd)
    if bound is not None:
        config = replace(config, listen=_listen_of(bound))
    ring = keyring(config.keys)
    endpoint, keys = ring.link(config.connect)
    with ZmqContext() as context:
        client = Client(
            context.connect(endpoint, keys, interactive=bool(config.link.air)),
            endpoint=endpoint,
            join_timeout_s=None,
            rejoins=True,
            role=GATEWAY,
            declared=config.link.declared(),
        )
        server = HttpServer(client, config, ring.directory, bound)
        async with (
            Manager(environment()).attending(lambda: bool(server.url)),
            # The link stays open until the last streams have ended.
            client.running() as running,
        ):
            await beside([running], server.serve(lambda: on_started(server.url)))


def _listen_of(bound: socket.socket) -> str:
    endpoint = endpoint_of(bound.fileno())
    if not endpoint.startswith("tcp://"):
        raise ConfigError(
            f"the socket of this service is {endpoint}, but HTTP needs TCP: "
            f"set ListenStream=HOST:PORT"
        )
    return endpoint.removeprefix("tcp://")


async def serve_beside(
    client: Client, config: GatewayConfig, bound: socket.socket, on_started: Callable[[str], None]
) -> None:
    """Serve the mesh that `client` has joined, in its own process. bound: from reserve()."""
    raise_file_limit()
    server = HttpServer(client, config, keyring(config.keys).directory, bound)
    await server.serve(lambda: on_started(server.url))
