"""Limits the messages, offences and joins of each peer and bans offenders. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from nodes.coordinator.latest import Latest
from nodes.messages import GuessNotice, SubmitRequest
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
# What counts as one more message of its kind, because it takes about as long. On an x86 a notice of
# one part took 30 us, and each further part 3 us. A request took 120 us, each message and each bias
# in it 2.6 us and 1.4 us, and a token id 0.08 us. The latter counts half, so that a client can send
# the 64 longest prompts that it may have under way at once.
_PARTS_A_MESSAGE: Final = 16
_ITEMS_A_MESSAGE: Final = 80
_TOKENS_A_MESSAGE: Final = 5_000
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


def work_of(message: Any) -> float:
    """Return what decoding a message took beyond a usual one of its kind, in such messages."""
    match message:
        case GuessNotice(parts=parts):
            return len(parts) / _PARTS_A_MESSAGE
        case SubmitRequest(messages=messages, rules=rules, prompt_token_ids=token_ids):
            num_items = len(messages) + len(rules.logit_bias)
            return num_items / _ITEMS_A_MESSAGE + len(token_ids) / _TOKENS_A_MESSAGE
    return 0.0


class _Allowances:
    """What each sender may still have of something: a burst at once, and so much a second."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        # What was left when its sender last wanted some, and when that was.
        self._left = Latest[Hashable, tuple[float, float]](_MAX_PEERS)

    def take(self, who: Hashable, amount: float, now: float) -> bool:
        """Take an amount from what a sender may have; False, and nothing is taken, if that is
        too little."""
        left, seen_at = self._left.get(who, (self._burst, now))
        left = min(self._burst, left + self._per_s * max(0.0, now - seen_at))
        is_allowed = left >= amount
        self._left[who] = (left - amount if is_allowed else left, now)
        return is_allowed


class RateLimits:
    """Keeps records of the last _MAX_PEERS senders; a new connection is a new peer."""

    def __init__(self) -> None:
        self._records = Latest[bytes, _Record](_MAX_PEERS)
        self._joins = _Allowances(BURST_JOINS, JOINS_PER_S)
        self._work = _Allowances(BURST_MESSAGES, MESSAGES_PER_S)

    def may_join(self, who: Hashable, now: float) -> bool:
        """Count a Hello; False if it must be ignored. The peer may retry.

        who: a key, or a peer without one, and whether it joins as a node.
        """
        return self._joins.take(who, 1.0, now)

    def may_work(self, who: Hashable, work: float, now: float) -> bool:
        """Count what decoding a message took beyond a usual one; False if it must be ignored.

        who: a key, or a peer without one, and its role. The connections of a key share a limit.
        """
        return self._work.take(who, work, now)

    def ban(self, peer: bytes) -> None:
        """Ignore whatever a peer sends from now on."""
        record = self._records.get(peer)
        if record is not None:
            record.is_banned = True

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
