"""Settings of a gateway; read by nodes.config.settings like those of the other roles."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from nodes.config.settings import ConfigError, LinkSettings

DEFAULT_LISTEN: Final = "127.0.0.1:8080"

# Key -> least and largest value.
_ACCEPTED: Final[dict[str, tuple[float, float]]] = {
    "max_body_bytes": (1024, 1 << 26),
    "max_header_bytes": (1024, 1 << 20),
    "max_prompt_chars": (1, 1 << 18),
    "max_prompt_tokens": (1, 131_072),
    "max_messages": (1, 1024),
    "max_choices": (1, 64),
    "max_prompts": (1, 256),
    "max_tokens": (1, 1 << 20),
    "max_concurrent": (1, 1 << 20),
    "max_concurrent_per_key": (1, 1 << 20),
    "max_connections": (1, 1 << 20),
    "max_unsent_bytes": (8192, 1 << 26),
    "header_timeout_s": (0.1, 600),
    "body_timeout_s": (0.1, 600),
    "write_timeout_s": (0.1, 600),
    "keep_alive_s": (1, 3600),
    "stop_timeout_s": (0, 3600),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What one request, one key and all of them may ask for.

    max_prompts: of one completions body, and max_choices of each. max_unsent_bytes: what waits for
    the reader of a stream before it is dropped. body_timeout_s: for a body, and a second more for
    each 64 KiB of it. write_timeout_s: without any progress, after the last token. stop_timeout_s:
    for streams to end by themselves.
    """

    max_body_bytes: int = 1 << 21
    max_header_bytes: int = 16_384
    max_prompt_chars: int = 1 << 18
    max_prompt_tokens: int = 131_072
    max_messages: int = 1024
    max_choices: int = 16
    max_prompts: int = 64
    max_tokens: int = 32_768
    max_concurrent: int = 256
    max_concurrent_per_key: int = 64
    max_connections: int = 16_384
    max_unsent_bytes: int = 65_536
    header_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    keep_alive_s: int = 30
    stop_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        for item in fields(self):
            low, high = _ACCEPTED[item.name]
            value = getattr(self, item.name)
            if not low <= value <= high:
                raise ConfigError(f"limits.{item.name} = {value}: {low} to {high} is accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """listen: HOST:PORT. connect, keys: as of a node. apikeys: file of API keys; "" for
    apikeys.toml beside the key files, if it is there. api_key: one that is accepted besides.

    require_keys: serve nobody without an API key, on loopback too.

    tls_cert, tls_key: PEM files; "" for plain HTTP. cors_origins: of pages that may use the API,
    with commas between them. allowed_hosts: names in Host that are accepted; "" for those of
    loopback where it is bound there, and any elsewhere. strict_fields: a field of a body that is
    not known, or asks for nothing that is done here, is an error. openai_defaults: what a body
    leaves open of sampling is as OpenAI's API has it (temperature 1, all tokens), not as the
    model's file has it. link: its way to the coordinator, as of a node.
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
    strict_fields: bool = False
    openai_defaults: bool = False
    link: LinkSettings = field(default_factory=LinkSettings)
    limits: GatewayLimits = field(default_factory=GatewayLimits)

    def __post_init__(self) -> None:
        address_of(self.listen)
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("tls_cert and tls_key: give both or neither")
        for origin in names(self.cors_origins):
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ConfigError(f"cors_origins: {origin!r}: such as https://example.org")


def names(text: str) -> tuple[str, ...]:
    """What is between the commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def address_of(listen: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; port 0 for one that the kernel picks. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ConfigError(f"listen = {listen!r}: HOST:PORT is accepted, such as {DEFAULT_LISTEN}")
    return host, int(port)
