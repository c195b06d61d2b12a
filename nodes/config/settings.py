"""Settings of each role: TOML file < AIRDRAFT_ environment < command line. Defaults live here."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from nodes.config.class_weights import parsed_weights

T = TypeVar("T")


# Of a mesh of several users of one machine: its services, and whoever has keys.
LOOPBACK_ENDPOINT = "tcp://127.0.0.1:7411"
# Four Pings, and what a retransmission takes: a stopped process is noticed within 2.5 s, and a link
# whose tail is a second long loses nobody.
HEARTBEAT_INTERVAL_S = 0.5
HEARTBEAT_TIMEOUT_S = 2.25
# Of Pings in the time-out.
LEAST_INTERVALS = 3
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class ConfigError(Exception):
    """A setting is unknown or out of range; the text names key, value and what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a node runs its model. threads: 0 for one on each physical core that it may use.
    gpu_layers: -1 for all, where libllama has a backend for a GPU.

    model_dir: where model files that are not the catalogue's must lie; "" for anywhere.
    model_sha256: what the file must have; "" for whatever it has.
    prefix_cache_mb: of a target, host memory for texts that have left its KV cache; 0 for none.
    vocabulary: of a draft, name or file of a model whose tokens its guesses are; "" for its own.
    weights: of a draft, "auto" for a compact copy of its file where that guesses faster,
    "as-stored" for the file as it is.
    """

    model: str
    model_dir: str = ""
    model_sha256: str = ""
    profile: str = "exact"
    cells: int = 8192
    max_streams: int = 16
    threads: int = 0
    gpu_layers: int = -1
    prefix_cache_mb: int = 256
    vocabulary: str = ""
    weights: str = "auto"

    def __post_init__(self) -> None:
        if self.model_sha256 and not _SHA256.fullmatch(self.model_sha256):
            raise ConfigError(
                f"engine.model_sha256 = {self.model_sha256!r}: 64 hexadecimal digits are accepted"
            )
        _one_of("engine.profile", self.profile, ("exact", "fast"))
        _one_of("engine.weights", self.weights, ("auto", "as-stored"))
        _in_range("engine.cells", self.cells, 256, 1 << 22)
        _in_range("engine.max_streams", self.max_streams, 1, 255)
        _in_range("engine.threads", self.threads, 0, 512)
        _in_range("engine.gpu_layers", self.gpu_layers, -1, 1 << 16)
        _in_range("engine.prefix_cache_mb", self.prefix_cache_mb, 0, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """A node's way to the coordinator, as far as it is known beforehand.

    air: name of a medium that it shares with all nodes that give the same, such as a Wi-Fi cell;
    packets are then marked for the access class of interactive media. rate_kbps: what the link
    carries when it has the medium alone; 0 where it shall be measured. frame_ms: what a message
    takes of the medium at least, whatever its size. rtt_ms: of a small message and its answer; 0
    where it shall be measured.
    """

    air: str = ""
    rate_kbps: float = 0.0
    frame_ms: float = 0.0
    rtt_ms: float = 0.0

    def __post_init__(self) -> None:
        if len(self.air) > 64:
            raise ConfigError(f"link.air = {self.air!r}: 64 characters at most are accepted")
        _in_range("link.rate_kbps", self.rate_kbps, 0, 1e9)
        _in_range("link.frame_ms", self.frame_ms, 0, 1000)
        _in_range("link.rtt_ms", self.rtt_ms, 0, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How much the coordinator takes in; what is more is refused as overloaded.

    max_requests: of one client's connection at a time. max_waiting: streams without a place, of all
    clients together. Those of gateways, which ask for many users, are counted apart. max_request_s:
    from submission to the last token; a request that is not done by then is ended.
    """

    max_requests: int = 64
    max_waiting: int = 1024
    max_gateway_requests: int = 16_384
    max_gateway_waiting: int = 16_384
    max_request_s: float = 3600.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _in_range(f"limits.{item.name}", getattr(self, item.name), 1, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSettings:
    """Which numerics class of a model serves a request, where targets have several.

    weights: "" for the first one, exact ones and then fast ones going first; or how many of the
    conversations each is to have beside the others, as "3fa9=2, 77bc=1": beginnings of the names
    that `airdraft nodes list` shows, and whole numbers from 1 to 100.
    """

    weights: str = ""

    def __post_init__(self) -> None:
        try:
            parsed_weights(self.weights)
        except ValueError as error:
            raise ConfigError(f"classes.weights = {self.weights!r}: {error}") from None


# The names of nodes.scheduler.planning.MODES.
PLAN_POLICIES: Final = (
    *("auto", "open", "plain", "grouped", "fixed-gamma", "fixed-gamma-alternating"),
    *("max-batch", "single-stream", "alternating", "greedy", "paper"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Whether streams wait for each other, so that they are verified together.

    policy: "auto" for what promises most. Others are for comparisons: "open" (no stream waits),
    "plain" (no guesses at all), "grouped" (the joint planner's groups whatever they give), or the
    groups of a baseline.
    """

    policy: str = "auto"

    def __post_init__(self) -> None:
        if self.policy not in PLAN_POLICIES:
            names = ", ".join(PLAN_POLICIES)
            raise ConfigError(f"plan.policy = {self.policy!r}: one of {names} is accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """listen: "" for a socket that only this user can reach or, where there are keys, loopback.

    prompt_lookup: guess from the streams' own texts where that is worth more than a draft.

    keys: directory of key files; "" for the usual one. pad_messages: send messages of a few sizes
    only, nodes and clients too, so that lengths tell less of prompts. mark_air: mark packets for
    the Wi-Fi access class of interactive media, where nodes are on air.
    """

    listen: str = ""
    cluster: str = "airdraft"
    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S
    heartbeat_timeout_s: float = HEARTBEAT_TIMEOUT_S
    prompt_lookup: bool = True
    keys: str = ""
    pad_messages: bool = False
    mark_air: bool = False
    limits: LimitSettings = field(default_factory=LimitSettings)
    classes: ClassSettings = field(default_factory=ClassSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)

    def __post_init__(self) -> None:
        _in_range("heartbeat_interval_s", self.heartbeat_interval_s, 0.05, 60)
        _in_range("heartbeat_timeout_s", self.heartbeat_timeout_s, 0.2, 600)
        if self.heartbeat_timeout_s < LEAST_INTERVALS * self.heartbeat_interval_s:
            raise ConfigError(
                f"heartbeat_timeout_s = {self.heartbeat_timeout_s}: at least three times "
                f"heartbeat_interval_s = {self.heartbeat_interval_s} is accepted, for one lost "
                f"packet must not end a membership"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """connect: "" for the coordinator that this machine joined, else the one on it.

    keys: as in CoordinatorConfig.
    """

    connect: str = ""
    name: str = "target"
    keys: str = ""
    join_timeout_s: float = 10.0
    link: LinkSettings = field(default_factory=LinkSettings)
    engine: EngineSettings = field(default_factory=lambda: EngineSettings(model=DEFAULT_TARGET))

    def __post_init__(self) -> None:
        _in_range("join_timeout_s", self.join_timeout_s, 0.1, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """connect, keys: as in TargetConfig."""

    connect: str = ""
    name: str = "draft"
    keys: str = ""
    join_timeout_s: float = 10.0
    link: LinkSettings = field(default_factory=LinkSettings)
    engine: EngineSettings = field(
        default_factory=lambda: EngineSettings(model=DEFAULT_DRAFT, profile="fast")
    )

    def __post_init__(self) -> None:
        _in_range("join_timeout_s", self.join_timeout_s, 0.1, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """connect, keys, link: as in TargetConfig."""

    connect: str = ""
    keys: str = ""
    link: LinkSettings = field(default_factory=LinkSettings)


def _one_of(key: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ConfigError(f"{key} = {value!r}: one of {', '.join(accepted)} is accepted")


def _in_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} = {value}: {low} to {high} is accepted")


def load(
    config_class: type[T],
    path: Path | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> T:
    """A role's config from all three sources.

    overrides: dotted key -> value from the command line; None values are left out. In the
    environment `engine.max_streams` is AIRDRAFT_ENGINE__MAX_STREAMS. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    if path is not None:
        _merge_table(values, _read_toml(path), "", _schema(config_class), str(path))
    schema = _schema(config_class)
    for key, kind in schema.items():
        name = "AIRDRAFT_" + key.upper().replace(".", "__")
        text = (os.environ if environ is None else environ).get(name)
        if text is not None:
            values[key] = _parse(name, text, kind)
    values |= {key: value for key, value in overrides.items() if value is not None}
    return _build(config_class, values, "")


def known_keys(config_class: type) -> frozenset[str]:
    """The dotted keys that a role's configuration may have."""
    return frozenset(_schema(config_class))


def environment() -> Mapping[str, str]:
    """The process's environment, for those who may not read it themselves."""
    return os.environ


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"config file {path} not found") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from error


def _schema(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type of every leaf of a config class."""
    schema: dict[str, Any] = {}
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            schema |= _schema(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            schema[prefix + item.name] = kind
    return schema


def _merge_table(
    values: dict[str, Any],
    table: Mapping[str, Any],
    prefix: str,
    schema: dict[str, Any],
    where: str,
) -> None:
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and any(k.startswith(key + ".") for k in schema):
            _merge_table(values, value, key + ".", schema, where)
        elif key not in schema:
            near = difflib.get_close_matches(key, schema, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known: {', '.join(schema)}"
            raise ConfigError(f"{where}: unknown key {key}{hint}")
        else:
            values[key] = _checked(where, key, value, schema[key])


def _checked(where: str, key: str, value: Any, kind: Any) -> Any:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) is int and float in kinds:
        return float(value)
    if type(value) not in kinds:
        raise ConfigError(f"{where}: {key} = {value!r} is not of type {_type_name(kind)}")
    return value


def _type_name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        return _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{name} = {text!r} is not of type {_type_name(kind)}") from None


def _build(config_class: type[T], values: Mapping[str, Any], prefix: str) -> T:
    arguments: dict[str, Any] = {}
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        key, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            below = {k: v for k, v in values.items() if k.startswith(key + ".")}
            if below:
                factory = typing.cast(Callable[[], Any], item.default_factory)
                changed = {k.removeprefix(key + "."): v for k, v in below.items()}
                arguments[item.name] = dataclasses.replace(factory(), **changed)
        elif key in values:
            arguments[item.name] = values[key]
    return config_class(**arguments)
