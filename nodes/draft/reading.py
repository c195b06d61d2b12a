"""Which texts a draft node reads next, and what of them it has read for others already."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.draft.stream import DraftStream
from nodes.engine.protocol import Model
from nodes.target.prefixes import common_prefix

# Shorter than that is read as quickly as copied.
_LEAST_SHARED_TOKENS = 32


class Reading:
    """Takes turns among the texts that wait."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._num_reads = 0

    def order(self, streams: Sequence[DraftStream]) -> list[DraftStream]:
        """Streams that have something to read in the next pass, of all streams by age.

        The oldest comes first and the one with the fewest tokens, in turns: a short text does not
        wait for a long one, and any number of short ones take half of the passes at most. What
        another stream of the same owner has read is copied; of what one that came before is about
        to read nothing is read twice.
        """
        behind = [stream for stream in streams if stream.is_behind]
        waits = {id(stream) for stream in behind if not self._may_read(stream, streams)}
        behind = [stream for stream in behind if stream.is_behind and id(stream) not in waits]
        self._num_reads += bool(behind)
        order = sorted(behind, key=lambda stream: stream.num_missing)
        if self._num_reads % 2 and len(behind) > 1:
            order.remove(behind[0])
            order.insert(0, behind[0])
        return order

    def _may_read(self, stream: DraftStream, streams: Sequence[DraftStream]) -> bool:
        """Copy what there is of a text that is not begun; False if there will soon be more."""
        if stream.cached:
            return True
        wanted = stream.token_ids[:-1]
        best, donor, promised = 0, None, 0
        is_earlier = True
        for other in streams:
            if other is stream:
                is_earlier = False
                continue
            if other.spec.owner != stream.spec.owner:
                continue
            shared = common_prefix(wanted, other.token_ids[:-1])
            if shared < _LEAST_SHARED_TOKENS:
                continue
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
        if donor is not None and best >= _LEAST_SHARED_TOKENS:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
            stream.cached = wanted[:best]
        return True
