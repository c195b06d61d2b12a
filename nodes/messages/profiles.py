"""The profile of a node's engine and link, which Hello carries."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from mesh.messages import Range, struct
from nodes.engine.traits import ModelTraits
from nodes.messages.fields import MAX_STREAMS_PER_MESSAGE, Count, Name


@struct
class CostFields:
    """A cost table on the wire; fields as in policies.latency.CostTable."""

    sizes: tuple[Count, ...]
    seconds: tuple[float, ...]
    per_cell_s: float
    per_own_cell_s: float


@struct
class LinkFields:
    """What a node declares about its link to the coordinator.

    air: the medium it shares with other nodes that give the same name, "" for none. rate_bps: rate
    of the link alone, 0 if it must be measured. frame_s: the least airtime of a message in seconds.
    rtt_s: round trip to the coordinator in seconds, 0 if it must be measured.
    """

    air: Name
    rate_bps: Annotated[float, Range(0, 1e12)]
    frame_s: Annotated[float, Range(0, 10)]
    rtt_s: Annotated[float, Range(0, 10)] = 0.0


@struct
class EngineProfile:
    """A node's engine as declared in Hello; fields as in engine.protocol.EngineInfo."""

    engine: Name
    model: Name
    model_hash: Name
    vocab_hash: Name
    numerics_class: Name
    num_vocab: Count
    num_cells: Count
    max_streams: Annotated[int, Range(1, MAX_STREAMS_PER_MESSAGE)]
    context_length: Count
    exact: bool
    can_roll_back: bool
    emulated: bool
    decode: CostFields
    prefill: CostFields
    link: LinkFields = LinkFields("", 0.0, 0.0)
    traits: ModelTraits = field(default_factory=ModelTraits)
