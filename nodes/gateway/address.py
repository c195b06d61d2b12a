"""The address of a gateway, and whether whoever reaches it needs an API key.

Without the HTTP libraries, because `airdraft serve` looks at it before it starts anything.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from mesh.endpoints import is_loopback
from mesh.errors import KeysError
from nodes.gateway.apikeys import FILE_NAME, ApiKeys
from nodes.gateway.config import GatewayConfig, address_of


class ListenError(OSError):
    """The address cannot be bound; the text names it and the reason."""


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


def keys_of(config: GatewayConfig, keys_directory: Path) -> ApiKeys:
    path = Path(config.apikeys) if config.apikeys else keys_directory / FILE_NAME
    return ApiKeys(path, config.api_key)


def is_at_home(config: GatewayConfig) -> bool:
    """Whether only this machine can reach the gateway."""
    host, port = address_of(config.listen)
    return is_loopback(f"tcp://{f'[{host}]' if ':' in host else host}:{port}")


def reserve(config: GatewayConfig, keys_directory: Path) -> socket.socket:
    """Bind the address of a gateway that will serve it later; until then it refuses connections.

    Raises ListenError, and KeysError if the gateway needs API keys and none exist.
    """
    admits_anybody(keys_of(config, keys_directory), config, at_home=is_at_home(config))
    return bound_to(*address_of(config.listen))


def bound_to(host: str, port: int) -> socket.socket:
    """A socket at an address, on which nobody listens yet. Raises ListenError."""
    with contextlib.ExitStack() as stack, listen_errors(host, port):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = stack.enter_context(socket.socket(family))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((host, port))
        stack.pop_all()
    return found


@contextlib.contextmanager
def listen_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ListenError(
            f"cannot serve HTTP on {host}:{port}: {error.strerror or error}; choose another address"
        ) from error
