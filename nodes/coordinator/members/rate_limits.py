"""Limits the messages, offences and joins of each peer and bans offenders. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from nodes.coordinator.latest import Latest
from nodes.messages.access import GATEWAY

# Number of malformed or forbidden messages at which a peer is banned.
MAX_OFFENCES: Final = 16
# Far above real nodes: a target sends one message per pass, some hundreds a second at most.
MESSAGES_PER_S: Final = 5_000.0
BURST_MESSAGES: Final = 10_000.0
# A client's messages cause more work than a node's replies.
CLIENT_COST: Final = 5.0
# A gateway sends for many users, who may all reconnect at once.
GATEWAY_COST: Final = 0.25
# Joins of the nodes of one key, of its clients, or of one connection without keys. Each takes the
# coordinator milliseconds.
JOINS_PER_S: Final = 5.0
BURST_JOINS: Final = 20.0
_MAX_PEERS: Final = 4_096


@dataclass(slots=True)
class _Record:
    allowance: float = BURST_MESSAGES
    seen_at: float = 0.0
    num_offences: int = 0
    is_banned: bool = False


def cost_of(role: str) -> float:
    """Return how much a message of a role counts against the limit; "" is a non-member."""
    return {"target": 1.0, "draft": 1.0, GATEWAY: GATEWAY_COST}.get(role, CLIENT_COST)


class RateLimits:
    """Keeps records of the last _MAX_PEERS senders; a new connection is a new peer."""

    def __init__(self) -> None:
        self._records = Latest[bytes, _Record](_MAX_PEERS)
        # The joins that may still be made, and the time of the last one.
        self._joins = Latest[Hashable, tuple[float, float]](_MAX_PEERS)

    def may_join(self, who: Hashable, now: float) -> bool:
        """Count a Hello; False if it must be ignored. The peer may retry.

        who: a key, or a peer without one, and whether it joins as a node.
        """
        allowance, seen_at = self._joins.get(who, (BURST_JOINS, now))
        allowance = min(BURST_JOINS, allowance + JOINS_PER_S * max(0.0, now - seen_at))
        is_allowed = allowance >= 1.0
        self._joins[who] = (allowance - is_allowed, now)
        return is_allowed

    def may_speak(self, peer: bytes, now: float, cost: float = 1.0) -> bool:
        """Count a message; False if it must be ignored without decoding it."""
        record = self._records[peer] = self._records.get(peer) or _Record(seen_at=now)
        if record.is_banned:
            return False
        record.allowance += MESSAGES_PER_S * max(0.0, now - record.seen_at)
        record.allowance = min(BURST_MESSAGES, record.allowance) - cost
        record.seen_at = now
        record.is_banned = record.allowance < 0.0
        return not record.is_banned

    def offended(self, peer: bytes) -> None:
        """Count a malformed or forbidden message of a peer."""
        record = self._records.get(peer)
        if record is not None:
            record.num_offences += 1
            record.is_banned |= record.num_offences >= MAX_OFFENCES

    def is_banned(self, peer: bytes) -> bool:
        record = self._records.get(peer)
        return record is not None and record.is_banned
