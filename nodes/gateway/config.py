"""Settings of a gateway, its address, and whether whoever reaches it needs an API key.

Without the HTTP libraries, because `airdraft serve` looks at it before it starts anything.
"""

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from airdraft.mesh.endpoints import is_loopback
from airdraft.mesh.errors import KeysError
from airdraft.nodes.config.settings import (
    HTTP_HOST,
    HTTP_PORT,
    ConfigError,
    LinkSettings,
    check_ranges,
    ranged,
)
from airdraft.nodes.gateway.apikeys import FILE_NAME, ApiKeys
from airdraft.nodes.gateway.connections.strangers import networks

DEFAULT_LISTEN: Final = f"{HTTP_HOST}:{HTTP_PORT}"
_SENDABLE: Final = re.compile(r"[!-~]*")
# A name, an IPv4 address or an IPv6 address.
_HOST: Final = re.compile(r"[\w.-]+|[\da-fA-F]*:[\da-fA-F:.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """Limits for one request, one API key and the whole gateway.

    max_body_bytes: The size of a request's body. A larger one gets status 413.
    max_header_bytes: The size of a request's headers. Larger ones get status 400.
    max_prompt_chars: The number of characters of a prompt, or of the messages and tools of a chat.
    max_prompt_tokens: The number of tokens of a prompt that is given as token ids.
    max_messages: The number of messages of a conversation.
    max_choices: The number of choices (`n`) of a request, for each of its prompts.
    max_prompts: The number of prompts in one body of `/v1/completions`.
    max_choices_of_body: The number of choices of all prompts of a body together.
    max_scores: The number of log-probabilities that an answer may hold at once: those of its
        prompts, and of all its tokens if it is not streamed. A body that may need more gets status
        400. All answers together hold at most 16 times as many, and those of one API key 8 times.
    max_tokens: The number of tokens of one choice.
    max_concurrent: The number of requests under way, of all keys together. Others get status 429.
    max_concurrent_per_key: The number of requests of one API key under way. Others get status 429.
    max_requests_per_s: The number of requests a second of one API key, after a burst of four times
        as many. Each 64 KiB of a body counts as one more. Others get status 429.
    max_connections: The number of open connections. A low limit of open files makes it lower.
    max_strangers_per_address: The number of open connections of one address (of a /64 with IPv6)
        that have not shown a valid API key. Loopback and `trusted_proxies` have no such limit.
    max_unsent_bytes: The number of bytes of a stream that may wait for its reader. If more wait,
        the connection is closed.
    header_timeout_s: The time, in seconds, for the headers of a request, after which it gets status
        408. A TLS handshake that takes longer has its connection closed.
    body_timeout_s: The time, in seconds, for the body of a request, after which it gets status 408.
        Each 64 KiB of the body adds one second.
    write_timeout_s: The time, in seconds, without progress after which the connection is closed
        and the rest of an answer is dropped.
    keep_alive_s: The time, in seconds, for which an idle connection stays open.
    stop_timeout_s: The time, in seconds, that streams have to end by themselves when the gateway
        stops. A supervisor must wait 10 s longer before it kills the process.
    """

    max_body_bytes: int = ranged(1 << 21, 1024, 1 << 26)
    max_header_bytes: int = ranged(16_384, 1024, 1 << 20)
    max_prompt_chars: int = ranged(1 << 18, 1, 1 << 18)
    max_prompt_tokens: int = ranged(131_072, 1, 131_072)
    max_messages: int = ranged(1024, 1, 1024)
    max_choices: int = ranged(16, 1, 64)
    max_prompts: int = ranged(64, 1, 256)
    max_choices_of_body: int = ranged(128, 1, 16_384)
    max_scores: int = ranged(200_000, 1000, 1 << 24)
    max_tokens: int = ranged(32_768, 1, 1 << 20)
    max_concurrent: int = ranged(256, 1, 1 << 20)
    max_concurrent_per_key: int = ranged(64, 1, 1 << 20)
    max_requests_per_s: int = ranged(100, 1, 1 << 20)
    max_connections: int = ranged(4096, 1, 1 << 20)
    max_strangers_per_address: int = ranged(64, 1, 1 << 20)
    max_unsent_bytes: int = ranged(65_536, 8192, 1 << 26)
    header_timeout_s: float = ranged(10.0, 0.1, 600)
    body_timeout_s: float = ranged(10.0, 0.1, 600)
    write_timeout_s: float = ranged(30.0, 0.1, 600)
    keep_alive_s: int = ranged(30, 1, 3600)
    stop_timeout_s: float = ranged(5.0, 0, 3600)

    def __post_init__(self) -> None:
        check_ranges(self, "limits.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """The gateway, which serves the HTTP API of a mesh.

    listen: The address, as HOST:PORT, at which the gateway serves.
    connect: The coordinator's endpoint. Empty means the coordinator that this machine joined,
        otherwise the one on this machine.
    keys: The directory of key files. Empty means the default one.
    apikeys: The file of API keys. Empty means `apikeys.toml` beside the key files, if it exists.
    api_key: An API key that is accepted besides those of the file.
    require_keys: Whether every request needs an API key, on loopback too.
    tls_cert: The PEM file with the certificate chain. Empty means plain HTTP.
    tls_key: The PEM file with the certificate's private key. It is needed with `tls_cert`.
    cors_origins: The origins of pages of other sites that may use the API, separated by commas.
    allowed_hosts: The names that are accepted in the header `Host`, separated by commas. Empty
        means the names of loopback if the gateway listens there, and any name otherwise.
    trusted_proxies: The addresses or networks of reverse proxies, separated by commas, behind which
        are many clients: `max_strangers_per_address` is not for them.
    strict_fields: Whether a field that is unknown or has no effect is an error (status 400) instead
        of being ignored.
    openai_defaults: Whether sampling that a body leaves open is as in OpenAI's API (temperature 1,
        all tokens) instead of as in the model's file.
    """

    listen: str = DEFAULT_LISTEN
    connect: str = ""
    keys: str = ""
    apikeys: str = ""
    api_key: str = ""
    require_keys: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    cors_origins: str = ""
    allowed_hosts: str = ""
    trusted_proxies: str = ""
    strict_fields: bool = False
    openai_defaults: bool = False
    link: LinkSettings = field(default_factory=LinkSettings)
    limits: GatewayLimits = field(default_factory=GatewayLimits)

    def __post_init__(self) -> None:
        # Raises if `listen` is no address.
        _ = self.address
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("tls_cert and tls_key: give both or neither")
        if not _SENDABLE.fullmatch(self.api_key):
            # It is not quoted, because it is secret.
            raise ConfigError(
                "api_key: visible ASCII characters are accepted, without spaces and line ends, "
                "because clients cannot send others in a header"
            )
        for name in names(self.allowed_hosts):
            if not _HOST.fullmatch(name):
                raise ConfigError(
                    f"allowed_hosts: {name!r}: names and addresses are accepted, without port and "
                    "brackets; an empty list accepts any off loopback"
                )
        for proxy in names(self.trusted_proxies):
            try:
                networks([proxy])
            except ValueError:
                raise ConfigError(
                    f"trusted_proxies: {proxy!r}: an address or a network is accepted, such as "
                    "10.0.0.7 or 10.0.0.0/24"
                ) from None
        for origin in names(self.cors_origins):
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ConfigError(
                    f"cors_origins: {origin!r}: an origin is accepted, such as https://a.org"
                )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises ConfigError."""
        return address_of(self.listen)

    @property
    def is_at_home(self) -> bool:
        """Whether only this machine can reach the gateway."""
        host, port = self.address
        return is_loopback(f"tcp://{f'[{host}]' if ':' in host else host}:{port}")

    def api_keys(self, keys_directory: Path) -> ApiKeys:
        path = Path(self.apikeys) if self.apikeys else keys_directory / FILE_NAME
        return ApiKeys(path, self.api_key)


def names(text: str) -> tuple[str, ...]:
    """Split a list at its commas; empty parts are dropped."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def address_of(listen: str) -> tuple[str, int]:
    """Split HOST:PORT; port 0 means one that the kernel picks. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ConfigError(f"listen = {listen!r}: HOST:PORT is accepted, such as {DEFAULT_LISTEN}")
    return host, int(port)


class ListenError(OSError):
    """The address cannot be bound; the text names it and the reason."""


def admits_anybody(keys: ApiKeys, config: GatewayConfig) -> bool:
    """Whether requests need no key: on loopback, if no setting needs keys and no key file exists.

    Raises KeysError if keys are needed and none exist.
    """
    needing = [
        (not config.is_at_home, f"listen = {config.listen!r}", "listen on loopback"),
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


def reserve(config: GatewayConfig, keys_directory: Path) -> socket.socket:
    """Bind the address of a gateway that will serve it later; until then it refuses connections.

    Raises ListenError, and KeysError if the gateway needs API keys and none exist.
    """
    admits_anybody(config.api_keys(keys_directory), config)
    return bound_to(*config.address)


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
