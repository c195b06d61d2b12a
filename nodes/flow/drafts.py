"""The draft nodes of a mesh, and which streams they follow. Shared by all targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Final

from nodes.messages import MAX_PROMPT_TOKENS, MAX_STREAMS_PER_MESSAGE
from nodes.stream import PROMPT_PIECE_TOKENS, StreamId
from policies.latency import NodeCosts
from policies.plan import ENTRY_BITS, HEADER_BITS, Link

# Guesses from one commit to the next, by which nodes are compared.
_TYPICAL_GUESSES: Final = 4
# A text goes in pieces that take so much of the air, or guesses and commits would wait behind it.
_PIECE_S: Final = 0.02
_LEAST_PIECE_TOKENS: Final = 32
# A stream is moved to a node that would answer in this part of the time: reading its text there
# costs some, and what is known of nodes is not exact.
_MOVE_AT: Final = 0.7


@dataclass(slots=True)
class DraftNode:
    """max_streams: that it can follow. followed: by it now. num_unread: tokens of texts that it was
    given and has not read. free_at: when its link is through with what was last sent to it."""

    name: str
    costs: NodeCosts
    link: Link = field(default_factory=Link)
    max_streams: int = MAX_STREAMS_PER_MESSAGE
    token_bits: int = 32
    followed: set[StreamId] = field(default_factory=set)
    num_unread: int = 0
    free_at: float = 0.0

    @property
    def piece_tokens(self) -> int:
        """Tokens of a text that one message tells it."""
        if self.link.is_free:
            return MAX_PROMPT_TOKENS
        return max(_LEAST_PIECE_TOKENS, int(self.link.rate_bps * _PIECE_S / self.token_bits))

    def message_s(self, num_streams: int, num_tokens: int) -> float:
        """Predicted seconds of its medium that a message takes."""
        bits = HEADER_BITS + ENTRY_BITS * num_streams + self.token_bits * num_tokens
        return self.link.airtime_s(bits, 1)

    def answer_s(self, num_more: int = 0) -> float:
        """Predicted seconds from a commit until some guesses after it are at the coordinator."""
        num_streams = max(1, len(self.followed) + num_more)
        draft_s = _TYPICAL_GUESSES * self.costs.decode.at(num_streams)
        messages_s = self.message_s(num_streams, num_streams)
        messages_s += self.message_s(num_streams, _TYPICAL_GUESSES * num_streams)
        return self.link.rtt_s + draft_s + messages_s

    def reading_s(self, num_tokens: int) -> float:
        """Predicted seconds until a text more has been told and read."""
        pieces = (self.num_unread + num_tokens) / PROMPT_PIECE_TOKENS
        told_s = self.message_s(1, num_tokens)
        return told_s + pieces * self.costs.prefill.at(PROMPT_PIECE_TOKENS)


class Drafts:
    """All draft nodes, by name."""

    def __init__(self) -> None:
        self._nodes: dict[str, DraftNode] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[DraftNode]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> DraftNode:
        return self._nodes[name]

    def get(self, name: str) -> DraftNode | None:
        return self._nodes.get(name)

    def add(self, node: DraftNode) -> None:
        self._nodes[node.name] = node

    def remove(self, name: str) -> DraftNode | None:
        return self._nodes.pop(name, None)

    def best_for(
        self, names: Set[str], refused: Set[str], num_tokens: int, tokens_left: int
    ) -> DraftNode | None:
        """The node of these that would answer soonest if it followed one stream more; what telling
        it the text takes is spread over the tokens to come."""

        def price_s(node: DraftNode) -> float:
            told_s = node.reading_s(num_tokens) / max(1, tokens_left / _TYPICAL_GUESSES)
            return node.answer_s(1) + told_s

        return min(self._with_room(names, refused), key=price_s, default=None)

    def better_for(
        self, names: Set[str], refused: Set[str], present: DraftNode, num_tokens: int, left: int
    ) -> DraftNode | None:
        """A node that answers so much sooner that a stream should move to it."""
        found = self.best_for(names, refused | {present.name}, num_tokens, left)
        if found is None or found.answer_s(1) > _MOVE_AT * present.answer_s():
            return None
        # Each typical answer saves that much; reading the text again costs this once.
        saved_s = (present.answer_s() - found.answer_s(1)) * left / _TYPICAL_GUESSES
        return found if saved_s > found.reading_s(num_tokens) else None

    def _with_room(self, names: Set[str], refused: Set[str]) -> Iterable[DraftNode]:
        for node in self._nodes.values():
            has_room = len(node.followed) < node.max_streams
            if node.name in names and node.name not in refused and has_room:
                yield node
