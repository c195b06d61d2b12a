"""Limits the messages, offences and joins of each peer and bans offenders. Pure."""

from __future__ import annotations

from typing import Any, Final

from airdraft.mesh.latest import Latest
from airdraft.mesh.token_buckets import TokenBuckets
from airdraft.nodes.messages import CommitReply, GuessNotice, SubmitRequest, TokenizeReply
from airdraft.nodes.messages.access import GATEWAY

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
# the 64 longest prompts that it may have under way at once. Decoding a target's replies took 5 us
# an entry, 2 us a score and 0.04 us a token id (a core of an AMD EPYC, 2026-12-02). So 256 streams
# may have 21 scores each, 20 times a second.
_PARTS_A_MESSAGE: Final = 16
_ITEMS_A_MESSAGE: Final = 80
_TOKENS_A_MESSAGE: Final = 5_000
_READ_TOKENS_A_MESSAGE: Final = 400
_ENTRIES_A_MESSAGE: Final = 8
_SCORES_A_MESSAGE: Final = 32
# Joins of the nodes of one key, of its clients, or of one connection without keys. Each takes the
# coordinator milliseconds.
JOINS_PER_S: Final = 5.0
BURST_JOINS: Final = 20.0
_MAX_PEERS: Final = 4_096


def cost_of(role: str) -> float:
    """Returns how much a message of a role counts against the limit; "" is a non-member."""
    return {"target": 1.0, "draft": 1.0, GATEWAY: GATEWAY_COST}.get(role, CLIENT_COST)


def work_of(message: Any) -> float:
    """Returns what decoding a message took beyond a usual one of its kind, in such messages."""
    match message:
        case GuessNotice(parts=parts):
            return len(parts) / _PARTS_A_MESSAGE
        case SubmitRequest(messages=messages, rules=rules, prompt_token_ids=token_ids):
            num_items = len(messages) + len(rules.logit_bias)
            return num_items / _ITEMS_A_MESSAGE + len(token_ids) / _TOKENS_A_MESSAGE
        case CommitReply(entries=entries):
            scores = [score for entry in entries for score in entry.scores]
            num_scores = sum(1 + len(score.top) for score in scores)
            return len(entries) / _ENTRIES_A_MESSAGE + num_scores / _SCORES_A_MESSAGE
        case TokenizeReply(prompt_token_ids=token_ids):
            return len(token_ids) / _READ_TOKENS_A_MESSAGE
    return 0.0


class RateLimits:
    """Ignores peers that send too much or garbage; a new connection is a new peer.

    joins: of a key, or of a peer without one, as a node or as a client; the peer may retry. work:
    what decoding messages took beyond usual ones, of a key or a peer without one, in one role.
    """

    def __init__(self) -> None:
        self.joins = TokenBuckets(BURST_JOINS, JOINS_PER_S)
        self.work = TokenBuckets(BURST_MESSAGES, MESSAGES_PER_S)
        self._messages = TokenBuckets(BURST_MESSAGES, MESSAGES_PER_S)
        # By peer; MAX_OFFENCES of one that is banned.
        self._num_offences = Latest[bytes, int](_MAX_PEERS)

    def count_message(self, peer: bytes, now: float, cost: float = 1.0) -> bool:
        """Count a message; False if it must be ignored without decoding it."""
        if not self.is_banned(peer) and not self._messages.take(peer, cost, now):
            self.ban(peer)
        return not self.is_banned(peer)

    def ban(self, peer: bytes) -> None:
        """Ignore whatever a peer sends from now on."""
        self._num_offences[peer] = MAX_OFFENCES

    def offended(self, peer: bytes) -> None:
        """Count a malformed or forbidden message of a peer."""
        self._num_offences[peer] = self._num_offences.get(peer, 0) + 1

    def is_banned(self, peer: bytes) -> bool:
        return self._num_offences.get(peer, 0) >= MAX_OFFENCES
