"""Encodes an engine's properties and costs for Hello, and decodes them."""

from __future__ import annotations

import math

from airdraft.mesh.codec import decode_struct, encode_struct
from airdraft.mesh.json_form import copied_from
from airdraft.nodes.engine.protocol import EngineInfo
from airdraft.nodes.messages import EngineProfile, LinkFields
from airdraft.policies.latency import NodeCosts
from airdraft.policies.plan import Link

# Bounds that no device exceeds; they keep the planner's computations from overflowing.
_LEAST_S, _MOST_S = 1e-9, 1e5
_MOST_CELL_S = 1.0
_MOST_TOKENS = 2**31 - 1
_LEAST_BPS = 1000.0


def encode_profile(info: EngineInfo, costs: NodeCosts, link: LinkFields | None = None) -> bytes:
    """Encode a profile. link: properties of the link that the settings state."""
    tables = {"decode": costs.decode, "prefill": costs.prefill}
    link = link or LinkFields("", 0.0, 0.0)
    profile = copied_from(info, EngineProfile, max_streams=info.max_sequences, link=link, **tables)
    return encode_struct(profile)


def decode_profile(data: bytes) -> EngineProfile:
    """Decode a profile. Raises mesh.errors.DecodeError for malformed data."""
    return decode_struct(EngineProfile, data)


def costs_of(profile: EngineProfile) -> NodeCosts:
    """Returns the costs in a profile. Raises ValueError for tables that no measurement gives."""
    for table in (profile.decode, profile.prefill):
        if not all(_LEAST_S <= seconds <= _MOST_S for seconds in table.seconds):
            raise ValueError(f"the seconds of a pass must be {_LEAST_S:g} to {_MOST_S:g}")
        if table.sizes[-1] > _MOST_TOKENS:
            raise ValueError(f"the tokens of a pass must be at most {_MOST_TOKENS}")
        if max(table.per_cell_s, table.per_own_cell_s) > _MOST_CELL_S:
            raise ValueError(f"the seconds of a cell must be at most {_MOST_CELL_S:g}")
    return NodeCosts(profile.decode, profile.prefill)


def link_of(profile: EngineProfile) -> Link:
    """Returns the declared properties of a node's link; the rate is unlimited if none is declared.

    Raises ValueError for a rate that is too low for any message to arrive.
    """
    link = profile.link
    if 0 < link.rate_bps < _LEAST_BPS:
        raise ValueError(f"the rate of a link must be at least {_LEAST_BPS:g} bit/s")
    return Link(link.rate_bps or math.inf, link.rtt_s, medium=link.air, frame_s=link.frame_s)


def token_bits(profile: EngineProfile) -> int:
    """Returns the bits of one of its token ids in a message."""
    return 16 if profile.num_vocab <= 1 << 16 else 32


def same_vocabulary(draft: EngineProfile, target: EngineProfile) -> bool:
    return draft.vocab_hash == target.vocab_hash
