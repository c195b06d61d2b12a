"""Which texts a draft node reads next, and what of them it has read for others already."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.draft.followed import Followed
from nodes.engine.prefix import common_prefix
from nodes.engine.protocol import Sequences

# Shorter than that is read as quickly as copied.
_LEAST_SHARED_TOKENS = 32


class Reading:
    """Takes turns among the texts that wait."""

    def __init__(self, model: Sequences) -> None:
        self._model = model
        self._num_reads = 0

    def order(self, streams: Sequence[Followed]) -> list[Followed]:
        """Streams that have something to read in the next pass, of all streams by age.

        The oldest comes first and the one with the fewest tokens, in turns: a short text does not
        wait for a long one, and any number of short ones take half of the passes at most. What
        another stream of the same owner has read is copied; of what one that came before is about
        to read nothing is read twice.
        """
        behind = [stream for stream in streams if stream.is_behind]
        unread = [stream for stream in behind if not stream.cached and _begins(stream)]
        if unread:
            alike: dict[object, list[Followed]] = {}
            for stream in streams:
                alike.setdefault(_begins(stream), []).append(stream)
            waits = [s for s in unread if not self._may_read(s, alike[_begins(s)])]
            apart = {id(stream) for stream in waits}
            behind = [stream for stream in behind if stream.is_behind and id(stream) not in apart]
        self._num_reads += bool(behind)
        order = sorted(behind, key=lambda stream: stream.num_missing)
        if self._num_reads % 2 and len(behind) > 1:
            order.remove(behind[0])
            order.insert(0, behind[0])
        return order

    def _may_read(self, stream: Followed, alike: Sequence[Followed]) -> bool:
        """Copy what there is of a text that is not begun; False if there will soon be more.

        alike: by age, those that begin like it.
        """
        wanted = stream.token_ids[:-1]
        best, donor, promised = 0, stream, 0
        is_earlier = True
        for other in alike:
            if other is stream:
                is_earlier = False
                continue
            shared = common_prefix(wanted, other.token_ids[:-1])
            there = min(shared, len(other.cached))
            if there > best:
                best, donor = there, other
            # Only those that came before, so that no two wait for each other.
            if is_earlier and there < shared:
                promised = max(promised, shared)
            if max(best, promised) == len(wanted):
                break
        if promised > best:
            return False
        if best >= _LEAST_SHARED_TOKENS:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
            stream.cached = wanted[:best]
        return True


def _begins(stream: Followed) -> tuple[str, tuple[int, ...]] | None:
    """Whose a text is and how it begins; None if it is too short to share anything."""
    first = tuple(stream.token_ids[:_LEAST_SHARED_TOKENS])
    is_short = len(stream.token_ids) <= _LEAST_SHARED_TOKENS
    return None if is_short else (stream.spec.owner, first)
