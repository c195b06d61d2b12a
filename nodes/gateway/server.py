"""The gateway's HTTP server: starts, serves and stops."""

import asyncio
import contextlib
import logging
import math
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from nodes.config.settings import ConfigError
from nodes.gateway.address import admits_anybody, bound_to, is_at_home, keys_of, listen_errors
from nodes.gateway.app import Gateway
from nodes.gateway.config import GatewayConfig, address_of, names
from nodes.gateway.connection import LOG_INTERVAL_S, Connection
from nodes.gateway.errors import unavailable
from nodes.gateway.guard import Guard
from nodes.gateway.models import Mesh
from nodes.gateway.tls import Handshake, tls_context

logger = logging.getLogger(__name__)

_CLOSING_S: Final = 3
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# Open files of this process besides clients' connections: refused connections, the link, key files.
_OTHER_FILES: Final = 64
_LEAST_CONNECTIONS: Final = 16
_BACKLOG: Final = 2048
# asyncio's message when it has no file descriptor left and stops accepting for a second.
_NO_FILES: Final = "socket.accept() out of system resource"


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to nodes.service.runtime."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves the HTTP API. url: the API's base URL, or "" before serve() has bound the address."""

    def __init__(
        self,
        mesh: Mesh,
        config: GatewayConfig,
        keys_directory: Path,
        bound: socket.socket | None = None,
    ) -> None:
        """bound: a socket at the configured address; None binds one.

        Raises ConfigError or KeysError.
        """
        host, _ = self._address = address_of(config.listen)
        at_home = is_at_home(config)
        keys = keys_of(config, keys_directory)
        is_open = admits_anybody(keys, config, at_home=at_home)
        self._limits = config.limits
        self.max_connections = connections_allowed(config.limits.max_connections)
        self.gateway = Gateway(mesh, config)
        hosts = names(config.allowed_hosts.lower())
        if at_home:
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
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=config.limits.max_header_bytes,
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
        limits = {"limits": config.limits, "max_connections": self.max_connections}
        connection = type("_Connection", (Connection,), limits)
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
        self._logged_at = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != _NO_FILES:
            loop.default_exception_handler(context)
        elif loop.time() - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = loop.time()
            logger.warning("new connections have to wait: %s", context.get("exception"))
