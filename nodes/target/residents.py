"""The streams that have a sequence in the engine's cache, and what they find there.

Finished sequences do not stay: attention reads past every used cell, foreign ones too. What they
have is copied to host memory, and back for a stream of the same owner that begins alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from nodes.engine.prefix import common_prefix
from nodes.engine.protocol import Model
from nodes.target.prefixes import PrefixStore
from nodes.target.stream import TargetStream

# A shorter common prefix is run again rather than waited for.
_MIN_SHARED_TOKENS = 16
# Saving takes the engine some milliseconds, as reading a few tokens does.
_MIN_SAVED_TOKENS = 64
# All of what was saved is restored, and then cut. A position takes 7 us, to read a token some
# 4,000 (SmolLM2-135M, one thread); devices on which reading is quicker are given the benefit.
_RESTORED_PER_READ = 16


class Residents:
    """Sequences of one engine. A stream is in if it has a seq_id."""

    def __init__(self, model: Model, prefix_cache_bytes: int) -> None:
        self._model = model
        self._store = PrefixStore(prefix_cache_bytes)
        self._streams: dict[int, TargetStream] = {}
        self._free_seqs = list(range(model.info.max_sequences))[::-1]

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[TargetStream]:
        return iter(self._streams.values())

    def by_age(self) -> list[TargetStream]:
        """Who is in, oldest first."""
        return sorted(self._streams.values(), key=lambda stream: stream.number)

    def cached(self, stream: TargetStream) -> int:
        """Positions of a stream that are in the cache."""
        return self._model.length(stream.seq_id) if stream.seq_id is not None else 0

    def missing(self, stream: TargetStream) -> int:
        """Tokens to read; the last token always goes in with the next decode."""
        return len(stream.token_ids) - 1 - self.cached(stream)

    def fits(self, stream: TargetStream) -> bool:
        """Whether there is room for one more, and for all who are in to grow."""
        used = sum(other.cells for other in self._streams.values())
        return used + stream.cells <= self._model.info.num_cells

    def shortage(self) -> int:
        """Cells that those who are in lack for the next pass and for what they still read."""
        wanted = 0
        for stream in self._streams.values():
            wanted += self.missing(stream)
            if stream.may_decode:
                wanted += 1
        return wanted - self._model.free_cells()

    def enter(self, stream: TargetStream) -> None:
        stream.seq_id = self._free_seqs.pop()
        self._streams[stream.seq_id] = stream

    def leave(self, stream: TargetStream, *, num_valid: int | None = None) -> None:
        """Free a stream's cells, and save what is worth it.

        num_valid: positions that are of its text, where rejected guesses follow them.
        """
        seq_id, stream.seq_id = stream.seq_id, None
        if seq_id is None:
            return
        length = self._model.length(seq_id) if num_valid is None else num_valid
        token_ids = stream.token_ids[:length]
        owner, store = stream.spec.owner, self._store
        if store.is_on and length >= _MIN_SAVED_TOKENS and not store.holds(owner, token_ids):
            self._model.truncate(seq_id, length)
            store.put(owner, token_ids, self._model.save(seq_id))
        self._model.truncate(seq_id, 0)
        self._free_seqs.append(seq_id)
        del self._streams[seq_id]

    def forget_saved(self) -> None:
        self._store.clear()

    def to_read(self, stream: TargetStream) -> TargetStream:
        """Whose next tokens are to be read for a stream: its own, or those of an earlier stream
        that will have more of its prefix than there is now.

        What is in the cache or saved of its prefix is copied: the choices of one request are read
        once, and a conversation goes on where it was.
        """
        if stream.seq_id is None or self._model.length(stream.seq_id) > 0:
            return stream
        wanted = stream.token_ids[: stream.num_copyable]
        owner, can_cut = stream.spec.owner, self._model.info.can_roll_back
        best, donor = 0, None
        promised, reader = 0, None
        for other in self.by_age():
            if other is stream or other.spec.owner != owner:
                continue
            shared = common_prefix(wanted, other.token_ids[:-1])
            if shared < _MIN_SHARED_TOKENS:
                continue
            cached = self.cached(other)
            if min(shared, cached) > best and (can_cut or cached <= shared):
                best, donor = min(shared, cached), other
            # Only earlier ones, so that no two wait for each other.
            is_earlier = can_cut and other.number < stream.number
            if is_earlier and cached < shared and promised < shared:
                promised, reader = shared, other
        found = self._store.longest(owner, wanted)
        saved, length = found if found is not None else (None, 0)
        if saved is not None and not self._is_worth(saved.length, length):
            saved, length = None, 0
        if reader is not None and promised > max(best, length):
            return self.to_read(reader)
        if saved is not None and length > best:
            self._model.restore(stream.seq_id, saved, length)
        elif donor is not None and donor.seq_id is not None:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
        return stream

    def _is_worth(self, num_saved: int, num_wanted: int) -> bool:
        """Whether so many of the saved positions are restored rather than read again."""
        if num_wanted < max(_MIN_SHARED_TOKENS, num_saved / _RESTORED_PER_READ):
            return False
        info = self._model.info
        can_cut = info.can_roll_back or num_wanted == num_saved
        return can_cut and num_saved <= self._model.free_cells()
