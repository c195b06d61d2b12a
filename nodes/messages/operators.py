"""What is asked about a mesh, and said of its nodes."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Final

from mesh.messages import MaxLen, Range, message, struct
from nodes.engine.traits import ModelTraits
from nodes.messages.fields import (
    MAX_REASON_BYTES,
    MAX_STREAMS_PER_MESSAGE,
    Count,
    Id,
    Name,
    Reason,
)

# A plan of 256 streams is some 60 KB.
MAX_TRACE_BYTES: Final = 130_000
# One padded message holds it.
MAX_STATUS_BYTES: Final = 400_000


@message(38)
class NodesRequest:
    request_id: Id


# In the name of a numerics class: behind it is what a target answered to its probe.
APART: Final = "~"


@struct
class NodeFields:
    """num_streams: of a target. rtt_us: round trip of a Ping, 0 if not known. model_hash,
    numerics_class: as in its profile, the first characters of long ones; with APART in it the class
    of a target that computes other bits than the one which it says it is of. traits: of its
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
    """A client asks for what schedulers have recorded after record `after`.

    Recording goes on for some seconds after each of these. after: -1 begins: with the plans in
    force as the first records.
    """

    request_id: Id
    after: Annotated[int, Range(-1, 2**63 - 1)]


@message(41, max_bytes=MAX_TRACE_BYTES + 1024)
class TraceReply:
    """Records as JSON lines, none of them cut; never tokens or text of a stream.

    last: number of the last record that was looked at. num_lost: records that were forgotten
    before they were asked for, or are too large. has_more: others are there already.
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
    """The status document (nodes.status), as JSON; never tokens or text of a stream."""

    request_id: Id
    status: Annotated[bytes, MaxLen(MAX_STATUS_BYTES)]


@message(45)
class NodeCommandRequest:
    """An operator's word about a node. command: drain, undrain or drop."""

    request_id: Id
    command: Annotated[str, MaxLen(16)]
    node: Name


@message(46, max_bytes=MAX_REASON_BYTES)
class NodeCommandReply:
    """error: "" if it was done. num_streams: those that the node still serves."""

    request_id: Id
    error: Reason
    num_streams: Count
