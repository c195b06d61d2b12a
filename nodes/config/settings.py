"""Settings of each role: TOML file < AIRDRAFT_ environment < command line. All defaults are here.

docs/reference/settings.md is generated from these classes and the comments at their fields.
"""

import dataclasses
import difflib
import os
import re
import tomllib
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from airdraft.nodes.messages import LinkFields

T = TypeVar("T")
N = TypeVar("N", int, float)

# The endpoint of a mesh that several users of one machine share: services, or users with keys.
LOOPBACK_ENDPOINT = "tcp://127.0.0.1:7411"
# Four Pings and the time of a retransmission. A stopped process is noticed within 2.5 s, and a link
# with delays of up to a second loses no member.
HEARTBEAT_INTERVAL_S = 0.5
HEARTBEAT_TIMEOUT_S = 2.25
# The least number of Ping intervals in the timeout.
LEAST_INTERVALS = 3
# The most characters of names in messages.
_MOST_CHARS = 64
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
# Settings that earlier versions had, and what to do instead.
_REMOVED: Final = {
    "classes.weights": "the class that has served goes on serving alone: leave it out",
    "engine.model_dir": "engine.model_sha256 says which file is accepted",
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class ConfigError(Exception):
    """A setting is unknown or out of range. The message names key, value and accepted values."""


def ranged(default: N, low: float, high: float) -> N:
    """A number with its default, and the smallest and the largest value that are accepted."""
    return field(default=default, metadata={"accepted": (low, high)})


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Raise ConfigError for a number outside its range. prefix: Of the settings' dotted keys."""
    for item in dataclasses.fields(settings):
        if "accepted" not in item.metadata:
            continue
        (low, high), value = item.metadata["accepted"], getattr(settings, item.name)
        if not low <= value <= high:
            raise ConfigError(f"{prefix}{item.name} = {value}: {low} to {high} is accepted")


def _check_length(key: str, value: str, least: int = 0) -> None:
    """Raise ConfigError for a text that no message can hold."""
    if not least <= len(value) <= _MOST_CHARS:
        raise ConfigError(f"{key} = {value!r}: {least} to {_MOST_CHARS} characters are accepted")


def _one_of(key: str, value: str, accepted: Collection[str]) -> None:
    if value not in accepted:
        raise ConfigError(f"{key} = {value!r}: one of {', '.join(accepted)} is accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a node runs its model."""

    #: The model that the node runs: a name of the catalogue or a GGUF file.
    model: str
    #: The SHA-256 that the model file must have. Empty means that it is not checked.
    model_sha256: str = ""
    #: `exact` computes the same bits in every batch; `fast` may be faster and promises no equal
    #: texts.
    profile: str = "exact"
    cells: int = ranged(8192, 256, 1 << 22)  #: The number of tokens that the KV cache holds.
    #: The number of streams that the node serves at the same time.
    max_streams: int = ranged(16, 1, 255)
    #: The number of engine threads. 0 takes one for each physical core that the node may use.
    threads: int = ranged(0, 0, 512)
    #: The number of layers that run on a GPU. -1 takes all of them where libllama has a backend for
    #: a GPU.
    gpu_layers: int = ranged(-1, -1, 1 << 16)
    #: The host memory, in MB, in which a target keeps prompts that have left its KV cache. 0 keeps
    #: none.
    prefix_cache_mb: int = ranged(256, 0, 1 << 20)
    #: The name or file of a model in whose tokens a draft node guesses, where the targets have
    #: other tokens than the draft model. Empty means the draft model's own tokens.
    vocabulary: str = ""
    #: The name or file of a draft model that a target runs in its own process, in turns with its
    #: passes, so that both have all cores. Empty means none.
    draft: str = ""
    #: With `auto` a compact copy of a draft model's file is made where that copy guesses faster.
    #: With `as-stored` the file is used as it is.
    weights: str = "auto"

    def __post_init__(self) -> None:
        if self.model_sha256 and not _SHA256.fullmatch(self.model_sha256):
            raise ConfigError(
                f"engine.model_sha256 = {self.model_sha256!r}: 64 hexadecimal digits are accepted"
            )
        _one_of("engine.profile", self.profile, ("exact", "fast"))
        _one_of("engine.weights", self.weights, ("auto", "as-stored"))
        check_ranges(self, "engine.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """A node's link to the coordinator, as far as it is known beforehand."""

    #: The name of the medium that the node shares with all nodes of the same `link.air`, such as a
    #: Wi-Fi cell. Packets are then marked for the access class of interactive media.
    air: str = ""
    #: The rate of the link, in kbit/s, while no other node uses the medium. 0 means that the
    #: coordinator measures it; any other rate is at least 1.
    rate_kbps: float = ranged(0.0, 0, 1e9)
    #: The least time, in ms, that a message takes of the medium, whatever its size.
    frame_ms: float = ranged(0.0, 0, 1000)
    #: The round trip, in ms, of a small message. 0 means that the coordinator measures it.
    rtt_ms: float = ranged(0.0, 0, 10_000)

    def __post_init__(self) -> None:
        _check_length("link.air", self.air)
        check_ranges(self, "link.")
        if 0 < self.rate_kbps < 1:
            raise ConfigError(f"link.rate_kbps = {self.rate_kbps}: 0, or at least 1, is accepted")

    def declared(self) -> LinkFields:
        """Returns the fields in which a node declares its link."""
        times = self.frame_ms * 1e-3, self.rtt_ms * 1e-3
        return LinkFields(self.air, self.rate_kbps * 1e3, *times)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How much the coordinator takes in. It refuses further requests as overloaded."""

    #: The number of requests that one connection of a client may have under way.
    max_requests: int = ranged(64, 1, 1 << 20)
    #: The number of streams of all clients together that may wait for a place. The last quarter is
    #: kept for clients of which no stream waits yet.
    max_waiting: int = ranged(1024, 1, 1 << 20)
    #: The number of requests that one connection of a gateway may have under way.
    max_gateway_requests: int = ranged(16_384, 1, 1 << 20)
    #: The number of streams of all gateways together that may wait for a place.
    max_gateway_waiting: int = ranged(16_384, 1, 1 << 20)
    #: The time, in seconds, from the arrival of a request to its last token. A request that is not
    #: done by then is ended.
    max_request_s: float = ranged(3600.0, 1, 1 << 20)

    def __post_init__(self) -> None:
        check_ranges(self, "limits.")


# Names in nodes.scheduler.planning.MODES. The others there are baselines, which bench/ adds.
PLAN_POLICIES: Final = ["auto", "open", "plain", "grouped", "paper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Whether streams wait for each other, so that they are verified together."""

    #: `auto` takes the way with the least predicted time. The others are for comparisons: with
    #: `open` no stream waits for another, with `plain` there are no guesses, with `grouped` the
    #: groups of the joint planner are always in force, and with `paper` those of the paper.
    policy: str = "auto"

    def __post_init__(self) -> None:
        _one_of("plan.policy", self.policy, PLAN_POLICIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """The coordinator, to which nodes and clients connect."""

    #: The endpoint that the coordinator binds. Empty means a socket that only this user can reach
    #: or, where there are keys, port 7411 on loopback.
    listen: str = ""
    cluster: str = "airdraft"  #: The name of the mesh.
    #: The time, in seconds, between two Pings to a member.
    heartbeat_interval_s: float = ranged(HEARTBEAT_INTERVAL_S, 0.05, 60)
    #: The time, in seconds, after which a silent member counts as gone. It is at least three times
    #: `heartbeat_interval_s`, because one lost packet must not end a membership.
    heartbeat_timeout_s: float = ranged(HEARTBEAT_TIMEOUT_S, 0.2, 600)
    #: Whether targets also guess from the texts that the streams already have, where that is worth
    #: more than a draft model.
    prompt_lookup: bool = True
    keys: str = ""  #: The directory of key files. Empty means the usual one.
    #: Whether members send messages of a few sizes only, so that lengths reveal less about prompts.
    pad_messages: bool = False
    #: Whether the coordinator marks its packets for the Wi-Fi access class of interactive media.
    #: This is useful if the coordinator itself uses Wi-Fi.
    mark_air: bool = False
    limits: LimitSettings = field(default_factory=LimitSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)

    def __post_init__(self) -> None:
        _check_length("cluster", self.cluster)
        check_ranges(self)
        if self.heartbeat_timeout_s < LEAST_INTERVALS * self.heartbeat_interval_s:
            raise ConfigError(
                f"heartbeat_timeout_s = {self.heartbeat_timeout_s}: at least three times "
                f"heartbeat_interval_s = {self.heartbeat_interval_s} is accepted, because one lost "
                f"packet must not end a membership"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a target node and a draft node both need."""

    #: The coordinator's endpoint. Empty means the coordinator that this machine joined, otherwise
    #: the one on this machine.
    connect: str = ""
    name: str  #: The node's name in the mesh.
    keys: str = ""  #: The directory of key files. Empty means the usual one.
    #: The time, in seconds, that the node waits for the coordinator to let it in.
    join_timeout_s: float = ranged(10.0, 0.1, 3600)
    link: LinkSettings = field(default_factory=LinkSettings)
    engine: EngineSettings

    def __post_init__(self) -> None:
        _check_length("name", self.name, least=1)
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig(NodeConfig):
    """A target node, which verifies guesses and decodes."""

    name: str = "target"
    engine: EngineSettings = field(default_factory=lambda: EngineSettings(model=DEFAULT_TARGET))


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig(NodeConfig):
    """A draft node, which guesses tokens for a target to verify."""

    name: str = "draft"
    engine: EngineSettings = field(
        default_factory=lambda: EngineSettings(model=DEFAULT_DRAFT, profile="fast")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """A command or program that sends requests to a mesh."""

    #: The coordinator's endpoint. Empty means the coordinator that this machine joined, otherwise
    #: the one on this machine.
    connect: str = ""
    keys: str = ""  #: The directory of key files. Empty means the usual one.
    link: LinkSettings = field(default_factory=LinkSettings)


def load(
    config_class: type[T],
    path: Path | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> T:
    """Load a role's configuration from all three sources.

    overrides: Values of the command line by dotted keys; None values are ignored. In the
    environment `engine.max_streams` is AIRDRAFT_ENGINE__MAX_STREAMS. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    schema = schema_of(config_class)
    if path is not None:
        _merge_table(values, read_toml(path), "", schema, str(path))
    given = os.environ if environ is None else environ
    for key, says in _REMOVED.items():
        if variable_of(key) in given:
            raise ConfigError(f"{variable_of(key)} is no setting any more: {says}")
    keys = {variable_of(key): key for key in schema}
    for name, key in keys.items():
        if name in given:
            values[key] = _parse(name, given[name], schema[key])
    # Two underscores where there should be one, or the other way round, are easily overlooked.
    dense = {name.replace("_", ""): name for name in keys}
    for name in given.keys() - keys.keys():
        if name.startswith("AIRDRAFT_") and (meant := dense.get(name.replace("_", ""))):
            raise ConfigError(f"{name} is no setting: did you mean {meant}?")
    values |= {key: value for key, value in overrides.items() if value is not None}
    return _build(config_class, values)


def variable_of(key: str) -> str:
    """Returns the environment variable of a setting, such as AIRDRAFT_ENGINE__MAX_STREAMS."""
    return "AIRDRAFT_" + key.upper().replace(".", "__")


def environment() -> Mapping[str, str]:
    """Returns the process's environment, because only this module may read os.environ."""
    return os.environ


def read_toml(path: Path, what: str = "config file") -> dict[str, Any]:
    """Returns the content of a file. Raises ConfigError, which begins with `what`."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} not found") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # Invalid TOML or UTF-8, too long numbers, too deep tables, and NUL in the path.
        raise ConfigError(f"{what} {path} is not valid TOML: {error}") from error


def schema_of(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Returns the types of all settings of a config class by their dotted keys."""
    schema: dict[str, Any] = {}
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            schema |= schema_of(typing.cast(type, kind), f"{prefix}{item.name}.")
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
    """Add the settings of a table and of those in it to `values`, by their dotted keys."""
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and any(k.startswith(key + ".") for k in schema):
            _merge_table(values, value, key + ".", schema, where)
        elif says := next(
            (says for k, says in _REMOVED.items() if (k + ".").startswith(key + ".")), ""
        ):
            raise ConfigError(f"{where}: {key} is no setting any more: {says}")
        elif key not in schema:
            near = difflib.get_close_matches(key, schema, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known: {', '.join(schema)}"
            raise ConfigError(f"{where}: unknown key {key}{hint}")
        else:
            values[key] = _checked(where, key, value, schema[key])


def _checked(where: str, key: str, value: Any, kind: Any) -> Any:
    """Returns a value of a TOML file. Raises ConfigError if its type is not the setting's."""
    if type(value) is int and kind is float:
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: {key} has too many digits") from None
    if type(value) is not kind:
        raise ConfigError(f"{where}: {key} = {value!r} is not of type {kind.__name__}")
    return value


def _parse(name: str, text: str, kind: Any) -> Any:
    """Returns the value of an environment variable as the type of its setting."""
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{name} = {text!r}: one of {', '.join(_BOOLEANS)} is accepted")
        return _BOOLEANS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name} = {text!r} is not of type {kind.__name__}") from None


def _build(config_class: type[T], values: Mapping[str, Any]) -> T:
    """Returns a config with values by their dotted keys, which have one dot at most."""
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        prefix = item.name + "."
        below = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        if below:
            factory = typing.cast(Callable[[], Any], item.default_factory)
            arguments[item.name] = dataclasses.replace(factory(), **below)
        elif item.name in values:
            arguments[item.name] = values[item.name]
    return config_class(**arguments)
