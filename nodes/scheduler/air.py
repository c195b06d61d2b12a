"""How the answers of a round share the air: in turns, or with shares that their senders keep to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.grants import Air, Medium
from nodes.messages import DraftEntry
from nodes.scheduler.drafting.draft_node import DraftNode
from policies.airtime import release_shares

# A turn that far off is no turn: what was predicted then does not hold any more.
_LONGEST_HOLD_S = 1.0
_MOST_BPS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What a draft node is asked for in a round. num_first: tokens of its first step."""

    node: DraftNode
    entries: tuple[DraftEntry, ...]
    new_token_ids: tuple[int, ...]
    gammas: Sequence[int]
    num_first: int

    @property
    def draft_s(self) -> float:
        return self.node.draft_s(self.gammas, self.num_first)

    @property
    def link_s(self) -> float:
        return self.node.link_s(self.gammas, len(self.new_token_ids))

    @property
    def request_s(self) -> float:
        return self.node.message_s(len(self.gammas), len(self.new_token_ids))

    @property
    def answer_s(self) -> float:
        return self.node.message_s(len(self.gammas), sum(self.gammas))


@dataclass(frozen=True, slots=True)
class Way:
    """held_s: how long after the request the answer must not go out. waits_s: by how much it comes
    later than it would if the node were alone. rate_bps: what it keeps to; 0 for no limit."""

    held_s: float = 0.0
    waits_s: float = 0.0
    rate_bps: int = 0


def _arrives(medium: Medium, asked: Asked, now: float) -> float:
    """Reserve the medium for a request; when it is there."""
    return medium.reserve(now, now, asked.request_s).end + asked.node.link.rtt_s / 2


def turn(air: Air, asked: Asked, now: float) -> Way:
    """Reserve the medium for a request and its answer."""
    if not asked.node.link.medium:
        return Way()
    medium = air[asked.node.link.medium]
    arrived, draft_s = _arrives(medium, asked, now), asked.draft_s
    reserved = medium.reserve(now, arrived + draft_s, asked.answer_s)
    held_s = min(_LONGEST_HOLD_S, max(0.0, reserved.free_from - arrived))
    return Way(held_s, reserved.start - arrived - draft_s)


def shared_ways(air: Air, asked: Sequence[Asked], now: float) -> dict[str, Way]:
    """Ways by node: on each medium the answers of a round have constant shares and end together,
    soonest (DESIGN section 5 (iii)); rounds follow one another.
    """
    ways: dict[str, Way] = {}
    media = dict.fromkeys(a.node.link.medium for a in asked)
    for name in media:
        medium = air[name]
        here = [a for a in asked if a.node.link.medium == name]
        arrived = [_arrives(medium, a, now) for a in here]
        ready = [at + a.draft_s for at, a in zip(arrived, here, strict=True)]
        airtimes = [a.answer_s for a in here]
        _, ends = release_shares(airtimes, ready)
        reserved = medium.reserve(now, min(ready), ends - min(ready))
        starts = [max(at, reserved.start) for at in ready]
        shares, ends = release_shares(airtimes, starts)
        for a, at, start, alone_s, share in zip(
            here, arrived, ready, airtimes, shares, strict=True
        ):
            held_s = min(_LONGEST_HOLD_S, max(0.0, reserved.free_from - at))
            if not alone_s > 0.0:
                # Of a link on which nothing takes time as far as is known.
                ways[a.node.name] = Way(held_s, start - at - a.draft_s)
                continue
            # A frame's fixed cost is counted as its message's.
            bits = a.node.message_bits(len(a.gammas), sum(a.gammas))
            rate_bps = min(_MOST_BPS, max(1, round(share * bits / alone_s)))
            ways[a.node.name] = Way(held_s, ends - start - alone_s, rate_bps)
    return ways
