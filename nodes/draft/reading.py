"""Chooses the texts that a draft node reads next, and copies parts that it has read already."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.draft.followed import Followed
from nodes.engine.protocol import Sequences
from nodes.worker.stream import PROMPT_PIECE_TOKENS, most_in_common


class Reading:
    """Takes turns among the waiting texts."""

    def __init__(self, model: Sequences) -> None:
        self._model = model
        self._num_reads = 0

    def order(self, streams: Sequence[Followed]) -> list[Followed]:
        """Returns the streams that read in the next pass, in order; streams: all of them by age.

        The oldest and the one with the fewest tokens left go first in turns. So a short text does
        not wait for a long one, and short ones take at most half of the passes. Tokens that another
        stream of the same owner has read are copied. A stream waits while an earlier one is about
        to read the same tokens.
        """
        readers = [s for s in streams if s.is_behind and self._may_read(s, streams)]
        # After a copy nothing may be missing.
        behind = [stream for stream in readers if stream.is_behind]
        self._num_reads += bool(behind)
        order = sorted(behind, key=lambda stream: stream.num_missing)
        if self._num_reads % 2 and len(behind) > 1:
            order.remove(behind[0])
            order.insert(0, behind[0])
        return order

    def _may_read(self, stream: Followed, streams: Sequence[Followed]) -> bool:
        """Copy the cached part of an unread text; returns False if more can be copied soon."""
        if stream.cached:
            return True
        num_wanted = len(stream.token_ids) - 1
        now, soon = most_in_common(
            stream,
            num_wanted,
            streams,
            lambda each: len(each.cached),
            lambda each: self._model.shortest(each.seq_id),
        )
        (best, donor), (promised, _) = now, soon
        if promised > best:
            return False
        if best >= PROMPT_PIECE_TOKENS:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
            stream.cached = stream.token_ids[:best]
        return True
