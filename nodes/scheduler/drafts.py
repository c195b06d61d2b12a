"""The draft nodes of a mesh and the streams that they follow. All targets share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Final

from airdraft.nodes.messages import MAX_PROMPT_TOKENS, MAX_STREAMS_PER_MESSAGE
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS, StreamId
from airdraft.policies.acceptance import GUESS_MEMORY, AcceptanceEstimate
from airdraft.policies.airtime import weighted_shares
from airdraft.policies.latency import NodeCosts
from airdraft.policies.openflow import tokens_a_pass
from airdraft.policies.plan import ENTRY_BITS, HEADER_BITS, DraftView, Link

# Guesses between two commits that are assumed when a medium is divided.
_TYPICAL_GUESSES: Final = 4
# Seconds of airtime of a piece of a text. Guesses and commits wait behind each piece, so it is
# short.
_PIECE_S: Final = 0.02
# A node whose guesses were never compared here counts as a good one, so that it is tried: with 0.7
# a target stayed with a draft node that gave 1.4 times plain decoding beside one that gives 2.3.
_UNKNOWN_ALPHA: Final = 0.9
# The share of a medium that is divided. The rest is for traffic that is not counted here: texts,
# heartbeats, acknowledgements, and waits for the air. In an emulated cell of 200 kbit/s with nine
# guesses of ten right, 0.45, 0.6 and 0.8 gave 1.38, 1.70 and 1.01 times the tokens of plain
# decoding: too high a share makes a queue of seconds, in which every guess is late.
_DIVIDED_SHARE: Final = 0.6
# Where targets on the medium leave less of it than this, no draft node guesses over it: guesses
# would be late, and texts and guesses would delay the answers. In an emulated cell of 200 kbit/s
# with the target on it, streams had 0.71 of the tokens of plain decoding with a limit of 0.2, and
# 1.00 with 0.3.
_LEAST_DIVIDED_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stream of a target needs of a draft node.

    names: of nodes that may serve it. refused: of those that it is kept off. length, left: tokens
    that it has, and that are to come. pass_s: of a pass of its target. alphas: by node, how often
    its guesses were right there; a node that is not in it has not been compared yet.
    """

    names: Set[str]
    refused: Set[str]
    length: int
    left: int
    pass_s: float
    alphas: Mapping[str, AcceptanceEstimate]

    def token_s(self, node: DraftRecord, num_more: int = 0) -> float:
        """Predicted seconds a token, if the node followed so many streams more."""
        known = self.alphas.get(node.name)
        alpha = known.alpha if known is not None else _UNKNOWN_ALPHA
        num = max(1, len(node.followed) + num_more)
        tokens = tokens_a_pass(alpha, node.view, num, self.pass_s, node.token_bits)
        return self.pass_s / tokens


@dataclass(slots=True)
class DraftRecord:
    """A draft node, its load, and its shares of the medium.

    max_streams: the number that it can follow. followed: the streams that it follows now, with the
    tokens of their texts that it has to read. free_at: when its link will have sent the last
    message to it. owed_s: link seconds of messages that were sent without waiting for free_at.
    share_up, share_down: its shares of the medium, for guesses and for messages to it. others: how
    often, where a guess was wrong, one of another chain was right.
    """

    name: str
    costs: NodeCosts
    link: Link = field(default_factory=Link)
    max_streams: int = MAX_STREAMS_PER_MESSAGE
    token_bits: int = 32
    followed: dict[StreamId, int] = field(default_factory=dict)
    free_at: float = 0.0
    owed_s: float = 0.0
    share_up: float = 1.0
    share_down: float = 1.0
    # What has not been seen yet is not promised.
    others: AcceptanceEstimate = field(
        default_factory=lambda: AcceptanceEstimate(0.0, 3.0, GUESS_MEMORY)
    )

    @property
    def num_unread(self) -> int:
        return sum(self.followed.values())

    @property
    def rate_up_bps(self) -> int:
        """The rate that its guesses may use, in bit/s; 0 for a link without limits."""
        # A message holds no higher number; guesses never need as much.
        return 0 if self.link.is_free else round(min(2**31 - 1, self.link.rate_bps * self.share_up))

    @property
    def piece_tokens(self) -> int:
        """The most tokens of a text that one message to it holds."""
        num_tokens = max(PROMPT_PIECE_TOKENS, self.link.rate_bps * _PIECE_S / self.token_bits)
        return int(min(MAX_PROMPT_TOKENS, num_tokens))

    def message_s(self, num_streams: int, num_tokens: int) -> float:
        """Returns the predicted seconds of its medium that a message takes."""
        bits = HEADER_BITS + ENTRY_BITS * num_streams + self.token_bits * num_tokens
        return self.link.airtime_s(bits, 1)

    @property
    def view(self) -> DraftView:
        """The node as a policy sees it."""
        return DraftView(
            self.name,
            self.costs,
            self.link,
            other=self.others.alpha,
            share_up=self.share_up,
            share_down=self.share_down,
        )

    def reading_s(self, num_tokens: int) -> float:
        """Returns the predicted seconds until one more text has been sent to it and read."""
        pieces = (self.num_unread + num_tokens) / PROMPT_PIECE_TOKENS
        sending_s = self.message_s(1, num_tokens)
        return sending_s + pieces * self.costs.prefill.at(PROMPT_PIECE_TOKENS)


class Drafts(dict[str, DraftRecord]):
    """All draft nodes by name, and the shares of media that targets take."""

    def __init__(self) -> None:
        super().__init__()
        # By target: its medium, and the share of it that its answers take.
        self._targets: dict[str, tuple[str, float]] = {}

    def take(self, target: str, medium: str, part: float) -> None:
        """Reserve a share of a medium for the answers of a target."""
        self._targets[target] = (medium, part)
        self.allot(medium)

    def give_back(self, target: str) -> None:
        """End the reservation of a target that has left."""
        medium, _ = self._targets.pop(target, ("", 0.0))
        self.allot(medium)

    def _taken(self, medium: str) -> list[float]:
        return [part for name, part in self._targets.values() if name == medium]

    def is_full(self, medium: str) -> bool:
        """Whether the answers of targets leave too little of a medium for guesses."""
        return bool(medium) and _DIVIDED_SHARE - sum(self._taken(medium)) < _LEAST_DIVIDED_SHARE

    def allot(self, medium: str) -> None:
        """Divide a medium among the guesses and commits of all draft nodes on it.

        The shares minimize the mean arrival time of a message, weighted by each node's streams. The
        answers of targets on the medium are deducted first. Guesses for such a target cross the
        medium twice. A node without streams has at least the shares that one would give it.
        """
        # Where neither rate nor frame time is known yet, messages take no time, and so no share.
        nodes = [n for n in self.values() if n.link.medium == medium and not n.link.is_free]
        if not medium or not nodes:
            return
        taken = self._taken(medium)
        num_crossings = 2 if taken else 1
        nums = [max(1, len(node.followed)) for node in nodes]
        airtimes = [
            (num_crossings * node.message_s(num, _TYPICAL_GUESSES * num), node.message_s(num, num))
            for node, num in zip(nodes, nums, strict=True)
        ]
        free = max(_LEAST_DIVIDED_SHARE, _DIVIDED_SHARE - sum(taken))
        parts = weighted_shares(airtimes, [(num, num) for num in nums]).tolist()
        used = sum(sum(part) for node, part in zip(nodes, parts, strict=True) if node.followed)
        for node, (up, down) in zip(nodes, parts, strict=True):
            whole = used if node.followed else used + up + down
            least = (0.0, 0.0) if node.followed else (node.share_up, node.share_down)
            node.share_up = max(least[0], free * up / whole / num_crossings)
            node.share_down = max(least[1], free * down / whole)

    def best_for(self, wanted: Wanted) -> DraftRecord | None:
        """Returns the node with which the stream's tokens would take least, or None.

        The time to send and read the text is spread over the tokens to come.
        """

        def price_s(node: DraftRecord) -> tuple[float, float]:
            reading_s = node.reading_s(wanted.length) / max(1, wanted.left)
            # If no node promises anything, the quickest one is tried.
            return wanted.token_s(node, 1) + reading_s, node.costs.decode.at(1)

        return min(self._with_room(wanted), key=price_s, default=None)

    def better_for(self, wanted: Wanted, present: DraftRecord) -> DraftRecord | None:
        """Returns a node so much better that the stream should move to it, or None."""
        found = self.best_for(replace(wanted, refused=wanted.refused | {present.name}))
        if found is None:
            return None
        # Each token saves time, and reading the text again costs time once.
        saved_s = (wanted.token_s(present) - wanted.token_s(found, 1)) * wanted.left
        return found if saved_s > found.reading_s(wanted.length) else None

    def _with_room(self, wanted: Wanted) -> Iterable[DraftRecord]:
        for node in self.values():
            has_room = len(node.followed) < node.max_streams
            has_room = has_room and not self.is_full(node.link.medium)
            if node.name in wanted.names and node.name not in wanted.refused and has_room:
                yield node
