"""What goes into one pass of a draft node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.draft.stream import DraftStream
from nodes.engine.protocol import Span


@dataclass(slots=True)
class Pass:
    """budget: tokens that it may still take. is_mixed: some spans guess, others only read."""

    budget: int
    spans: list[Span] = field(default_factory=list)
    streams: list[DraftStream] = field(default_factory=list)
    is_mixed: bool = False

    def add(self, stream: DraftStream, wanted: Sequence[int], *, guess: bool) -> None:
        """Add what a stream lacks, as far as the budget goes."""
        start = len(stream.cached)
        count = min(len(wanted) - start, self.budget)
        if count <= 0:
            return
        guesses_next = guess and start + count == len(wanted)
        token_ids = wanted[start : start + count]
        self.spans.append(Span(stream.seq_id, start, token_ids, 1 if guesses_next else 0))
        self.streams.append(stream)
        self.budget -= count
