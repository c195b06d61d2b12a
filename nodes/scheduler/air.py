"""How the answers of a round share the air: in turns, or with shares that their senders keep to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.grants import Air, Medium, Turn
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

    @property
    def ready_s(self) -> float:
        """Until there are guesses, if the node were alone on its medium."""
        return self.request_s + self.node.link.rtt_s / 2 + self.draft_s


@dataclass(slots=True)
class Reservation:
    """A turn that is kept until all answers for which it was reserved are there, or given up."""

    medium: Medium
    turn: Turn
    num_answers: int = 1

    def answered(self) -> None:
        self.num_answers -= 1
        if self.num_answers == 0:
            self.medium.release(self.turn)


@dataclass(frozen=True, slots=True)
class Way:
    """held_s: how long after the request the answer must not go out. waits_s: by how much it comes
    later than it would if the node were alone. rate_bps: what it keeps to; 0 for no limit.
    reserved: for the answer, where its medium is shared."""

    held_s: float = 0.0
    waits_s: float = 0.0
    rate_bps: int = 0
    reserved: Reservation | None = None


def _arrives(medium: Medium, asked: Asked, now: float) -> float:
    """Reserve the medium for a request; when it is there."""
    return medium.reserve(now, now, asked.request_s).end + asked.node.link.rtt_s / 2


def ways_in_turn(air: Air, asked: Sequence[Asked], now: float) -> list[Way]:
    """Reserve media for requests and answers. Requests leave at once, one after the other: all of
    them are on the air before an answer can be."""
    arrived = [
        _arrives(air[a.node.link.medium], a, now) if a.node.link.medium else now for a in asked
    ]
    return [_turn(air, a, at, now) for a, at in zip(asked, arrived, strict=True)]


def _turn(air: Air, asked: Asked, arrived: float, now: float) -> Way:
    if not asked.node.link.medium:
        return Way()
    medium, ready = air[asked.node.link.medium], arrived + asked.draft_s
    turn = medium.reserve(now, ready, asked.answer_s)
    held_s = min(_LONGEST_HOLD_S, max(0.0, turn.free_from - arrived))
    waits_s = turn.start - now - asked.ready_s
    return Way(held_s, waits_s, reserved=Reservation(medium, turn))


def shared_ways(air: Air, asked: Sequence[Asked], now: float) -> dict[str, Way]:
    """Ways by node: on each medium the answers of a round have constant shares and end together,
    soonest (`policies/airtime.py`); rounds follow one another.
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
        turn = medium.reserve(now, min(ready), ends - min(ready))
        reserved = Reservation(medium, turn, len(here))
        starts = [max(at, turn.start) for at in ready]
        shares, ends = release_shares(airtimes, starts)
        for a, at, alone_s, share in zip(here, arrived, airtimes, shares, strict=True):
            held_s = min(_LONGEST_HOLD_S, max(0.0, turn.free_from - at))
            if not alone_s > 0.0:
                # Of a link on which nothing takes time as far as is known.
                waits_s = at + a.draft_s - now - a.ready_s
                ways[a.node.name] = Way(held_s, waits_s, reserved=reserved)
                continue
            # A frame's fixed cost is counted as its message's.
            bits = a.node.message_bits(len(a.gammas), sum(a.gammas))
            rate_bps = min(_MOST_BPS, max(1, round(share * bits / alone_s)))
            waits_s = ends - now - a.ready_s - alone_s
            ways[a.node.name] = Way(held_s, waits_s, rate_bps, reserved)
    return ways
