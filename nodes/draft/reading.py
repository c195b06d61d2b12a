"""Chooses the texts that a draft node reads next, and copies parts that it has read already."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.draft.followed import Followed
from nodes.engine.protocol import Sequences, common_prefix
from nodes.worker.stream import PROMPT_PIECE_TOKENS


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
        behind = [stream for stream in streams if stream.is_behind]
        unread = [stream for stream in behind if not stream.cached and _begins(stream)]
        if unread:
            alike: dict[object, list[Followed]] = {}
            for stream in streams:
                alike.setdefault(_begins(stream), []).append(stream)
            waiting = {id(s) for s in unread if not self._may_read(s, alike[_begins(s)])}
            behind = [stream for stream in behind if stream.is_behind and id(stream) not in waiting]
        self._num_reads += bool(behind)
        order = sorted(behind, key=lambda stream: stream.num_missing)
        if self._num_reads % 2 and len(behind) > 1:
            order.remove(behind[0])
            order.insert(0, behind[0])
        return order

    def _may_read(self, stream: Followed, alike: Sequence[Followed]) -> bool:
        """Copy the cached part of an unread text; returns False if more can be copied soon.

        alike: the streams with the same beginning, by age.
        """
        wanted = stream.token_ids[:-1]
        best, donor, promised = 0, stream, 0
        is_earlier = True
        for other in alike:
            if other is stream:
                is_earlier = False
                continue
            shared = common_prefix(wanted, other.token_ids[:-1])
            cached = min(shared, len(other.cached))
            shortest = self._model.shortest(other.seq_id)
            if cached >= max(best + 1, shortest):
                best, donor = cached, other
            # Only earlier streams count, so that no two streams wait for each other.
            if is_earlier and max(cached + 1, shortest) <= shared:
                promised = max(promised, shared)
            if max(best, promised) == len(wanted):
                break
        if promised > best:
            return False
        # A shorter part is read as fast as it is copied.
        if best >= PROMPT_PIECE_TOKENS:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
            stream.cached = wanted[:best]
        return True


def _begins(stream: Followed) -> tuple[str, tuple[int, ...]] | None:
    """Returns a text's owner and first tokens; None if it is too short to be copied."""
    first = tuple(stream.token_ids[:PROMPT_PIECE_TOKENS])
    is_short = len(stream.token_ids) <= PROMPT_PIECE_TOKENS
    return None if is_short else (stream.spec.owner, first)
