"""Two groups of streams in turns, so that all machines of a split model work at the same time.

A pass goes through one machine after the other, and the next pass of a stream needs its token. With
two groups one machine works for the first group while the next one works for the second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from airdraft.nodes.engine.protocol import Logits, Span
from airdraft.nodes.target.stream import Chosen, TargetStream

# Two groups are made if both take less than this share of the time of one pass. A smaller gain
# cannot be told from noise in measured tables.
_WORTHWHILE: Final = 0.9
# Passes under way: more would wait in front of the slowest machine.
_MOST: Final = 2


@runtime_checkable
class Pipelined(Protocol):
    """An engine of which several passes can be under way."""

    @property
    def own_share(self) -> float:
        """The share of a pass's time that this machine works, of late; 0.0 while it is unknown."""

    def begin(self, spans: Sequence[Span]) -> None:
        """Let a pass begin. No sequence may be in two passes under way, nor be changed meanwhile.

        Raises what Sequences.forward() raises.
        """

    def finish(self) -> Logits:
        """Wait for the oldest pass; returns what Sequences.forward() returns."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A pass under way: its spans, and the stream and guesses of each."""

    spans: Sequence[Span]
    turns: Sequence[tuple[TargetStream, Chosen]]


class Groups:
    """The passes under way. engine: None for one that runs one pass at a time."""

    def __init__(self, engine: Pipelined | None) -> None:
        self._engine = engine
        self._flights = deque[Flight]()

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def is_full(self) -> bool:
        return len(self._flights) == _MOST

    def has(self, stream: TargetStream) -> bool:
        """Whether a pass of a stream is under way."""
        return any(stream is other for flight in self._flights for other, _ in flight.turns)

    def next_of(
        self, decoding: Sequence[TargetStream], pass_s: Callable[[int], float]
    ) -> list[TargetStream]:
        """Returns the group whose pass begins now; [] if one pass for all streams is better.

        decoding: all streams that decode, those under way as well. pass_s: seconds of a pass by its
        tokens.
        """
        if self._engine is None or self._engine.own_share == 0.0 or len(decoding) < _MOST:
            return []
        size = -(-len(decoding) // _MOST)
        # The slowest machine works for one group after the other.
        slowest = max(self._engine.own_share, 1.0 - self._engine.own_share)
        if _MOST * slowest * pass_s(size) >= _WORTHWHILE * pass_s(len(decoding)):
            return []
        return [stream for stream in decoding if not self.has(stream)][:size]

    def begin(self, flight: Flight) -> None:
        assert self._engine is not None
        self._engine.begin(flight.spans)
        self._flights.append(flight)

    def finish(self) -> tuple[Flight, Logits]:
        """Wait for the oldest pass."""
        assert self._engine is not None
        return self._flights.popleft(), self._engine.finish()

    def clear(self) -> None:
        """Forget the passes, of which the engine knows nothing any more."""
        self._flights.clear()
