"""The messages of operators: node lists, traces, status and commands about nodes."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Final

from airdraft.mesh.messages import MaxLen, Range, message, struct
from airdraft.nodes.engine.traits import ModelTraits
from airdraft.nodes.messages.fields import (
    MAX_REASON_BYTES,
    MAX_STREAMS_PER_MESSAGE,
    Count,
    Id,
    Name,
    Reason,
)

# A plan of 256 streams takes some 60 KB.
MAX_TRACE_BYTES: Final = 130_000
# One padded message holds it.
MAX_STATUS_BYTES: Final = 400_000


@message(38)
class NodesRequest:
    request_id: Id


# Separates, in the name of a numerics class, the digits of a probe's deviating answer.
APART: Final = "~"


@struct
class NodeFields:
    """A node as clients see it. num_streams: 0 for a draft node. rtt_us: round trip of a Ping, 0 if
    unknown. model_hash, numerics_class: as in its profile, cut if long. A class with APART in its
    name belongs to a target that computes other bits than the class it declared. traits: of its
    model."""

    node: Name
    role: Name
    model: Name
    exact: bool
    emulated: bool
    num_streams: Count
    is_draining: bool = False
    rtt_us: Count = 0
    model_hash: Name = ""
    numerics_class: Name = ""
    traits: ModelTraits = field(default_factory=ModelTraits)


@message(39, max_bytes=98_304)
class NodesReply:
    request_id: Id
    nodes: Annotated[tuple[NodeFields, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


@message(40)
class TraceRequest:
    """Request the records of the schedulers that follow record `after`.

    Recording continues for some seconds after each request. after: -1 begins with the plans in
    force.
    """

    request_id: Id
    after: Annotated[int, Range(-1, 2**63 - 1)]


@message(41, max_bytes=MAX_TRACE_BYTES + 1024)
class TraceReply:
    """Records as complete JSON lines, without tokens or text of any stream.

    last: number of the last record considered. num_lost: records that were dropped before they were
    requested, or that are too large. has_more: further records are available now.
    """

    request_id: Id
    last: Id
    num_lost: Id
    has_more: bool
    records: Annotated[bytes, MaxLen(MAX_TRACE_BYTES)]


@message(43)
class StatusRequest:
    request_id: Id


@message(44, max_bytes=MAX_STATUS_BYTES + 1024)
class StatusReply:
    """The status document (nodes.telemetry.status) as JSON, without tokens or text of a stream."""

    request_id: Id
    status: Annotated[bytes, MaxLen(MAX_STATUS_BYTES)]


@message(45)
class NodeCommandRequest:
    """An operator's command about a node. command: drain, undrain or drop."""

    request_id: Id
    command: Annotated[str, MaxLen(16)]
    node: Name


@message(46, max_bytes=MAX_REASON_BYTES)
class NodeCommandReply:
    """error: "" on success. num_streams: streams that the node still serves."""

    request_id: Id
    error: Reason
    num_streams: Count
