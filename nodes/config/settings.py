"""The settings of each role. All defaults are here; nodes.config.sources reads the values.

docs/reference/settings.md is generated from these classes and the comments at their fields.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from airdraft.nodes.messages import LinkFields

N = TypeVar("N", int, float)

# The endpoint of a mesh that several users of one machine share: services, or users with keys.
LOOPBACK_ENDPOINT = "tcp://127.0.0.1:7411"
# Where a stage listens: on this machine, and for others, with keys.
STAGE_ENDPOINT, STAGE_ENDPOINT_FOR_ALL = "tcp://127.0.0.1:7412", "tcp://0.0.0.0:7412"
# Four Pings and the time of a retransmission. A stopped process is noticed within 2.5 s, and a link
# with delays of up to a second loses no member.
HEARTBEAT_INTERVAL_S = 0.5
HEARTBEAT_TIMEOUT_S = 2.25
# The least number of Ping intervals in the timeout.
LEAST_INTERVALS = 3
# The most characters of names in messages.
_MOST_CHARS = 64
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
# What `engine.draft` may be beside a model.
AUTO_DRAFT: Final = "auto"
NO_DRAFT: Final = "none"
# Where the HTTP API is served, unless a setting says otherwise.
HTTP_HOST: Final = "127.0.0.1"
HTTP_PORT: Final = 8080


class ConfigError(Exception):
    """A setting is unknown or out of range. The message names key, value and accepted values."""


def ranged(default: N, low: float, high: float) -> N:
    """A number with its default, and the smallest and the largest value that are accepted."""
    return field(default=default, metadata={"accepted": (low, high)})


def one_of(words: Sequence[str]) -> str:
    """One of some words, of which the first is the default."""
    return field(default=words[0], metadata={"words": words})


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Raise ConfigError for a number outside its range, and for a word that is not accepted.

    prefix: Of the settings' dotted keys.
    """
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if words := item.metadata.get("words", ()):
            if value not in words:
                accepted = ", ".join(words)
                raise ConfigError(f"{prefix}{item.name} = {value!r}: one of {accepted} is accepted")
        elif "accepted" in item.metadata:
            low, high = item.metadata["accepted"]
            if not low <= value <= high:
                raise ConfigError(f"{prefix}{item.name} = {value}: {low} to {high} is accepted")


def _check_length(key: str, value: str, least: int = 0) -> None:
    """Raise ConfigError for a text that no message can hold."""
    if not least <= len(value) <= _MOST_CHARS:
        raise ConfigError(f"{key} = {value!r}: {least} to {_MOST_CHARS} characters are accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a node runs its model."""

    #: The model that the node runs: a name of the catalogue or a GGUF file.
    model: str
    #: The SHA-256 that the model file must have. Empty means that it is not checked.
    model_sha256: str = ""
    #: `exact` computes the same bits in every batch; `fast` may be faster and promises no equal
    #: texts.
    profile: str = one_of(("exact", "fast"))
    #: The most tokens that the KV cache holds for all streams together. It takes memory as texts
    #: grow. 0 takes what the model's context needs for all streams, but at most half of the memory
    #: that is free at the start.
    cells: int = ranged(0, 0, 1 << 22)
    #: The number of streams that the node serves at the same time.
    max_streams: int = ranged(16, 1, 255)
    #: The number of engine threads. 0 takes one for each physical core that the node may use.
    threads: int = ranged(0, 0, 512)
    #: The number of layers that run on a GPU. -1 takes all of them where libllama has a backend for
    #: a GPU.
    gpu_layers: int = ranged(-1, -1, 1 << 16)
    #: With `auto` a compact copy of a draft model's file is made where that copy guesses faster.
    #: With `as-stored` the file is used as it is.
    weights: str = one_of(("auto", "as-stored"))

    def __post_init__(self) -> None:
        if self.model_sha256 and not _SHA256.fullmatch(self.model_sha256):
            raise ConfigError(
                f"engine.model_sha256 = {self.model_sha256!r}: 64 hexadecimal digits are accepted"
            )
        check_ranges(self, "engine.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetEngine(EngineSettings):
    """How a target node runs its model."""

    #: The host memory, in MB, in which the target keeps prompts that have left its KV cache. 0
    #: keeps none, and -1 takes at most an eighth of the memory that is free at the start.
    prefix_cache_mb: int = ranged(-1, -1, 1 << 20)
    #: The disk space, in MB, in which targets of this user keep texts of 1,024 tokens and more
    #: over restarts. 0 keeps none, and -1 takes at most a tenth of what is free, and 8 GB.
    prefix_disk_mb: int = ranged(-1, -1, 1 << 24)
    #: The name or file of a draft model that guesses in the target's process, in turns with its
    #: passes, so that both have all cores. `auto` means the one that the catalogue has for the
    #: model, or else the head of the model's file, and `none` means none. Prompt lookup is a
    #: setting of the coordinator.
    draft: str = NO_DRAFT
    #: The machines that run the model together with this one, in the order of their layers, with
    #: commas between them: the names of stages in the mesh, or of their machines' keys. A stage on
    #: this machine can be named by its endpoint. The target has the last layers.
    across: str = ""
    #: Stages that take the place of those that stay away for 10 s, with commas between them.
    spare: str = ""

    def __post_init__(self) -> None:
        EngineSettings.__post_init__(self)
        if self.draft in ("", "ngram"):
            raise ConfigError(
                f"engine.draft = {self.draft!r}: a name, a file, {AUTO_DRAFT} or {NO_DRAFT} is "
                f"accepted; with {NO_DRAFT} there is still prompt lookup"
            )
        if self.spare and not self.across:
            raise ConfigError(f"engine.spare = {self.spare!r}: accepted with engine.across only")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEngine(EngineSettings):
    """How a draft node, or a target's process, runs a draft model."""

    #: The name or file of a model in whose tokens the draft model guesses, where the targets have
    #: other tokens. Empty means the draft model's own tokens.
    vocabulary: str = ""


def draft_engine(target: EngineSettings, model: str, vocabulary: str) -> DraftEngine:
    """Returns the settings of a draft model that runs as a target does, but for its speed."""
    shared = {item.name: getattr(target, item.name) for item in dataclasses.fields(EngineSettings)}
    changed = {"model": model, "model_sha256": "", "profile": "fast", "vocabulary": vocabulary}
    return DraftEngine(**(shared | changed))


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
    policy: str = one_of(PLAN_POLICIES)

    def __post_init__(self) -> None:
        check_ranges(self, "plan.")


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
    engine: TargetEngine = field(default_factory=lambda: TargetEngine(model=DEFAULT_TARGET))


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig(NodeConfig):
    """A draft node, which guesses tokens for a target to verify."""

    name: str = "draft"
    engine: DraftEngine = field(
        default_factory=lambda: DraftEngine(model=DEFAULT_DRAFT, profile="fast")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEngine(EngineSettings):
    """How a stage runs its part of a model."""

    #: A model of which the stage may be asked to run a part. Empty means any: the file is one of
    #: this machine, or comes from the target.
    model: str = ""
    #: The only part of the model that this stage runs. `1/3` is the first of three parts for
    #: equal machines, and `0-10` are blocks 0 to 9. Empty leaves it to the target.
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """A stage, which runs some layers of a target's model."""

    #: The endpoint that the stage binds, for targets. Empty means port 7412, on all addresses if
    #: links have keys, and else on loopback.
    listen: str = ""
    #: The coordinator's endpoint. Empty means the coordinator that this machine joined. A machine
    #: that joined none serves programs of its own.
    connect: str = ""
    name: str = "stage"  #: The stage's name in the mesh.
    keys: str = ""  #: The directory of key files. Empty means the usual one.
    #: The time, in seconds, that the stage waits for the coordinator to let it in.
    join_timeout_s: float = ranged(10.0, 0.1, 3600)
    engine: StageEngine = field(default_factory=StageEngine)

    def __post_init__(self) -> None:
        _check_length("name", self.name, least=1)
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(CoordinatorConfig):
    """A whole mesh on one machine: its coordinator, its nodes and its HTTP API."""

    engine: TargetEngine = field(
        default_factory=lambda: TargetEngine(model=DEFAULT_TARGET, draft=AUTO_DRAFT)
    )
    #: Whether the draft model runs on a node of its own, as on another device, instead of in the
    #: target's process.
    beside: bool = False
    #: Whether the HTTP API is served. Its other settings are those of a gateway, from the
    #: environment.
    http: bool = True
    host: str = HTTP_HOST  #: The host at which the HTTP API is served.
    #: The port at which the HTTP API is served. 0 means one that the system chooses.
    port: int = ranged(HTTP_PORT, 0, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """A command or program that sends requests to a mesh."""

    #: The coordinator's endpoint. Empty means the coordinator that this machine joined, otherwise
    #: the one on this machine.
    connect: str = ""
    keys: str = ""  #: The directory of key files. Empty means the usual one.
    link: LinkSettings = field(default_factory=LinkSettings)
