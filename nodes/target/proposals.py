"""What proposes guesses inside a target's process: prompt lookup, and a draft model in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from airdraft.nodes.worker.stream import StreamId, StreamSpec

# Who made the guesses of a stream in a pass: a draft node, prompt lookup, or the draft model in the
# target's process.
Source = Literal["node", "lookup", "turns"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Guesses for the next tokens.

    chances: (g,) chance of each to be right if all before it are.
    """

    token_ids: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


class Proposer(Protocol):
    """Makes guesses for the streams that were opened at it."""

    source: ClassVar[Source]

    def open(self, spec: StreamSpec) -> None:
        """Add a stream, if its request allows guesses of this kind and there is room for it."""

    def committed(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        """Add committed tokens to a stream, and learn from the guesses for them."""

    def ended(self, stream_id: StreamId) -> None:
        """Note that a stream has ended."""

    def clear(self) -> None:
        """Drop all that is known of streams and owners."""

    def propose(self, stream_id: StreamId, most: int) -> Proposal:
        """Returns up to `most` guesses for a stream's next tokens."""
