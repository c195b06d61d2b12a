"""Encodes an engine's properties and costs for Hello, and decodes them."""

from __future__ import annotations

import math

from mesh.codec import decode_struct, encode_struct
from nodes.engine.protocol import EngineInfo
from nodes.messages import CostFields, EngineProfile, LinkFields
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

# Bounds that no device exceeds; they keep the planner's computations from overflowing.
_LEAST_S, _MOST_S = 1e-9, 1e5
_MOST_CELL_S = 1.0
_LEAST_BPS = 1000.0


def encode_profile(info: EngineInfo, costs: NodeCosts, link: LinkFields | None = None) -> bytes:
    """Encode a profile. link: properties of the link that the settings state."""
    return encode_struct(
        EngineProfile(
            engine=info.engine,
            model=info.model,
            model_hash=info.model_hash,
            vocab_hash=info.vocab_hash,
            numerics_class=info.numerics_class,
            num_vocab=info.num_vocab,
            num_cells=info.num_cells,
            max_streams=info.max_sequences,
            context_length=info.context_length,
            exact=info.exact,
            can_roll_back=info.can_roll_back,
            emulated=info.emulated,
            decode=_to_fields(costs.decode),
            prefill=_to_fields(costs.prefill),
            link=link or LinkFields("", 0.0, 0.0),
            traits=info.traits,
        )
    )


def decode_profile(data: bytes) -> EngineProfile:
    """Decode a profile. Raises mesh.errors.DecodeError for malformed data."""
    return decode_struct(EngineProfile, data)


def costs_of(profile: EngineProfile) -> NodeCosts:
    """Returns the costs in a profile. Raises ValueError for tables that no measurement gives."""
    return NodeCosts(_from_fields(profile.decode), _from_fields(profile.prefill))


def link_of(profile: EngineProfile) -> Link:
    """Returns the declared properties of a node's link; the rate is unlimited if none is declared.

    Raises ValueError for a rate that is too low for any message to arrive.
    """
    fields = profile.link
    if 0 < fields.rate_bps < _LEAST_BPS:
        raise ValueError(f"the rate of a link must be at least {_LEAST_BPS:g} bit/s")
    return Link(
        fields.rate_bps or math.inf, fields.rtt_s, medium=fields.air, frame_s=fields.frame_s
    )


def token_bits(profile: EngineProfile) -> int:
    """Returns the bits of one of its token ids in a message."""
    return 16 if profile.num_vocab <= 1 << 16 else 32


def same_vocabulary(draft: EngineProfile, target: EngineProfile) -> bool:
    return draft.vocab_hash == target.vocab_hash


def _to_fields(table: CostTable) -> CostFields:
    return CostFields(table.sizes, table.seconds, table.per_cell_s, table.per_own_cell_s)


def _from_fields(fields: CostFields) -> CostTable:
    per_cells = fields.per_cell_s, fields.per_own_cell_s
    table = CostTable(fields.sizes, fields.seconds, *per_cells)
    if not all(_LEAST_S <= seconds <= _MOST_S for seconds in table.seconds):
        raise ValueError(f"the seconds of a pass must be {_LEAST_S:g} to {_MOST_S:g}")
    if max(per_cells) > _MOST_CELL_S:
        raise ValueError(f"the seconds of a cell must be at most {_MOST_CELL_S:g}")
    return table
