"""The gateway's HTTP server: starts, serves and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from mesh.endpoints import is_loopback
from mesh.errors import KeysError
from nodes.config.settings import ConfigError
from nodes.gateway.apikeys import FILE_NAME, ApiKeys
from nodes.gateway.app import Gateway
from nodes.gateway.config import GatewayConfig, address_of, names
from nodes.gateway.connection import Connection
from nodes.gateway.errors import stopping
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


class ListenError(OSError):
    """The address cannot be bound; the text names it and the reason."""


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
        at_home = _is_at_home(config)
        keys = _keys_of(config, keys_directory)
        is_open = admits_anybody(keys, config, at_home=at_home)
        self._limits = config.limits
        self.max_connections = connections_allowed(config.limits.max_connections)
        self.gateway = Gateway(
            mesh,
            config.limits,
            strict_fields=config.strict_fields,
            openai_defaults=config.openai_defaults,
        )
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
        asyncio.get_running_loop().set_exception_handler(_on_fault)
        host, port = self._address
        with self._given or bound_to(host, port) as bound:
            with _listen_errors(host, port):
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
        self.gateway.running.refuse_new(stopping())
        logger.info("stopping: %d requests are under way", len(self.gateway.running))
        await self.gateway.running.until_idle(self._limits.stop_timeout_s)
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        await self.gateway.looking.stop()


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


def _on_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle an exception outside any task: a lack of file descriptors is logged in one line."""
    if context.get("message") == _NO_FILES:
        logger.warning("new connections have to wait: %s", context.get("exception"))
    else:
        loop.default_exception_handler(context)


def admits_anybody(keys: ApiKeys, config: GatewayConfig, *, at_home: bool) -> bool:
    """Whether requests need no key: on loopback, if no setting needs keys and no key file exists.

    at_home: whether the gateway listens on loopback. Raises KeysError if keys are needed and none
    exist.
    """
    needing = [
        (not at_home, f"listen = {config.listen!r}", "listen on loopback"),
        (bool(config.allowed_hosts), "allowed_hosts", "leave it out"),
        (bool(config.cors_origins), "cors_origins", "leave it out"),
        (config.require_keys, "require_keys", "leave it out"),
        (bool(config.apikeys), "apikeys", "leave it out"),
        (bool(config.api_key), "api_key", "leave it out"),
        (keys.are_needed(), "the file itself", "remove it"),
    ]
    reason = next(((setting, remedy) for is_so, setting, remedy in needing if is_so), None)
    if reason is None:
        return True
    if keys.is_empty():
        setting, remedy = reason
        raise KeysError(
            f"{keys.path} has no API keys, but {setting} needs some: "
            f"run `airdraft apikeys add NAME`, give a key with --api-key, or {remedy}"
        )
    return False


def _keys_of(config: GatewayConfig, keys_directory: Path) -> ApiKeys:
    path = Path(config.apikeys) if config.apikeys else keys_directory / FILE_NAME
    return ApiKeys(path, config.api_key)


def _is_at_home(config: GatewayConfig) -> bool:
    """Whether only this machine can reach the gateway."""
    host, port = address_of(config.listen)
    return is_loopback(f"tcp://{f'[{host}]' if ':' in host else host}:{port}")


def reserve(config: GatewayConfig, keys_directory: Path) -> socket.socket:
    """Bind the address of a gateway that will serve it later; until then it refuses connections.

    Raises ListenError, and KeysError if the gateway needs API keys and none exist.
    """
    admits_anybody(_keys_of(config, keys_directory), config, at_home=_is_at_home(config))
    return bound_to(*address_of(config.listen))


def bound_to(host: str, port: int) -> socket.socket:
    """A socket at an address, on which nobody listens yet. Raises ListenError."""
    with contextlib.ExitStack() as stack, _listen_errors(host, port):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = stack.enter_context(socket.socket(family))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((host, port))
        stack.pop_all()
    return found


@contextlib.contextmanager
def _listen_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ListenError(
            f"cannot serve HTTP on {host}:{port}: {error.strerror or error}; choose another address"
        ) from error
