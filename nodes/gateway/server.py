"""The gateway's HTTP server: starts, serves and stops, as its own process or beside a mesh."""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import uvicorn

from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.config.sources import environment
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.config import (
    GatewayConfig,
    admits_anybody,
    bound_to,
    listen_errors,
    names,
)
from airdraft.nodes.gateway.connections.admission import Admission
from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.gateway.connections.handshake import Handshake, tls_context
from airdraft.nodes.gateway.connections.seldom import SeldomWarnings
from airdraft.nodes.gateway.connections.strangers import Strangers, networks
from airdraft.nodes.gateway.errors import unavailable
from airdraft.nodes.gateway.guard import Guard
from airdraft.nodes.messages.access import GATEWAY
from airdraft.nodes.service.roles import keyring
from airdraft.nodes.service.runtime import beside, raise_file_limit
from airdraft.nodes.service.systemd import Manager, endpoint_of, take_inherited

logger = logging.getLogger(__name__)

# Equals FileDescriptorName= in the gateway's socket unit.
SOCKET_NAME: Final = "http"
_CLOSING_S: Final = 3
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# Open files of this process besides clients' connections: refused connections, the link, key files.
_OTHER_FILES: Final = 64
_LEAST_CONNECTIONS: Final = 16
# Connections that the kernel keeps until they are accepted, and that one turn of the loop accepts:
# each takes some 0.1 ms.
_BACKLOG: Final = 2048
_ACCEPTED_PER_TURN: Final = 64
# asyncio's message when it has no file descriptor left and stops accepting for a second.
_NO_FILES: Final = "socket.accept() out of system resource"


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to nodes.service.runtime."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio has shortened the kernel's queue to the number that it accepts in a turn.
        for each in sockets or ():
            each.listen(_BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves the HTTP API. url: the API's base URL, or "" before serve() has bound the address."""

    def __init__(
        self,
        mesh: MeshClient,
        config: GatewayConfig,
        keys_directory: Path,
        bound: socket.socket | None = None,
    ) -> None:
        """bound: a socket at the configured address; None binds one.

        Raises ConfigError or KeysError.
        """
        host, _ = self._address = config.address
        keys = config.api_keys(keys_directory)
        is_open = admits_anybody(keys, config)
        self._limits = config.limits
        self.max_connections = connections_allowed(config.limits.max_connections)
        self.gateway = Gateway(mesh, config)
        hosts = names(config.allowed_hosts.lower())
        if config.is_at_home:
            hosts = (*hosts, *_LOOPBACK_NAMES, host.lower())
        guarded = Guard(
            self.gateway.router(),
            keys,
            self.gateway.metrics,
            is_open=is_open,
            allowed_hosts=hosts or None,
            allowed_origins=names(config.cors_origins),
        )
        self._server: _Server | None = None
        self._uvicorn = uvicorn.Config(
            guarded,
            http=self._protocol(config),
            ws="none",
            lifespan="off",
            log_config=None,
            # uvicorn's warnings concern only what clients send.
            log_level="error",
            backlog=_ACCEPTED_PER_TURN,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=config.limits.keep_alive_s,
            # Requests have ended by then; this is the time for clients to read the last bytes.
            timeout_graceful_shutdown=_CLOSING_S,
        )
        self._uvicorn.load()
        self._given = bound
        self._scheme = "https" if config.tls_cert else "http"
        self.url = ""

    def _protocol(self, config: GatewayConfig) -> type[asyncio.Protocol]:
        """The protocol class of new connections. Raises ConfigError."""
        most = config.limits.max_strangers_per_address
        strangers = Strangers(most, networks(names(config.trusted_proxies)))
        admission = Admission(self.max_connections, strangers, time.monotonic)
        shared = {"limits": config.limits, "admission": admission}
        connection = type("_Connection", (Connection,), shared)
        if not config.tls_cert:
            return connection
        secured = {"context": tls_context(config), "connection": connection}
        return type("_Handshake", (Handshake,), secured)

    @property
    def num_connections(self) -> int:
        return 0 if self._server is None else len(self._server.server_state.connections)

    async def serve(self, on_started: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled. Streams then have `stop_timeout_s` to end by themselves.

        Raises ListenError.
        """
        server = self._server = _Server(self._uvicorn)
        asyncio.get_running_loop().set_exception_handler(_Faults())
        host, port = self._address
        with self._given or bound_to(host, port) as bound:
            with listen_errors(host, port):
                bound.listen(_BACKLOG)
            shown = f"[{host}]" if ":" in host else host
            self.url = f"{self._scheme}://{shown}:{bound.getsockname()[1]}/v1"
            serving = asyncio.create_task(server.serve(sockets=[bound]))
            on_started()
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                await self._stop(server, serving)
                raise

    async def _stop(self, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
        """Refuse new requests, wait for those under way, and only then close the address."""
        reason = "the gateway is stopping: try again later"
        self.gateway.running.refuse_new(unavailable(reason, closes=True))
        logger.info("stopping: %d requests are under way", len(self.gateway.running))
        await self.gateway.running.until_idle(self._limits.stop_timeout_s)
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        await self.gateway.looking.status.stop()
        await self.gateway.models.nodes.stop()


def connections_allowed(wanted: int) -> int:
    """The number of connections: `wanted`, or fewer if the limit of open files is lower.

    Raises ConfigError if that limit is too low for a gateway.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = min(wanted, most - _OTHER_FILES)
    if allowed < min(wanted, _LEAST_CONNECTIONS):
        raise ConfigError(
            f"the limit of open files is {most}, but a gateway needs "
            f"{_OTHER_FILES + _LEAST_CONNECTIONS}: raise LimitNOFILE or `ulimit -n`"
        )
    if allowed < wanted:
        logger.info("at most %d connections: the limit of open files is %d", allowed, most)
    return allowed


class _Faults:
    """Handles exceptions outside any task. A lack of files is logged once in an interval."""

    def __init__(self) -> None:
        self._warnings = SeldomWarnings(logger)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != _NO_FILES:
            loop.default_exception_handler(context)
        else:
            text = "new connections have to wait: %s"
            self._warnings.write(loop.time(), text, context.get("exception"))


# -- as its own process, or in the process of a mesh -----------------------------------------------


async def run_gateway(config: GatewayConfig, on_started: Callable[[str], None]) -> None:
    """Bind and serve until cancelled. on_started gets the base URL of the API.

    While the coordinator is unreachable, requests get status 503. Raises RefusedError if the
    coordinator does not admit this gateway.
    """
    raise_file_limit()
    # The socket that the service manager opened for this process.
    fd = take_inherited(environment(), SOCKET_NAME)
    bound = None if fd is None else socket.socket(fileno=fd)
    if bound is not None:
        config = replace(config, listen=_listen_of(bound))
    ring = keyring(config.keys)
    endpoint, keys = ring.link(config.connect)
    with ZmqContext() as context:
        client = MeshClient(
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
    client: MeshClient,
    config: GatewayConfig,
    bound: socket.socket,
    on_started: Callable[[str], None],
) -> None:
    """Serve the mesh that `client` has joined, in its own process. bound: from reserve()."""
    raise_file_limit()
    server = HttpServer(client, config, keyring(config.keys).directory, bound)
    await server.serve(lambda: on_started(server.url))
