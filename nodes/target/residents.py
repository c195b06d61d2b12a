"""The streams in the engine's cache, the parked ones that wait for room, and reused prefixes.

Finished sequences do not stay in the cache, because attention reads past every used cell, also of
other sequences. They are saved to host memory and restored for a stream of the same owner with the
same beginning. What is shorter than a piece of a prompt is read again instead. Long ones are on the
disk, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from airdraft.nodes.engine.protocol import Model, SavedPrefix, common_prefix
from airdraft.nodes.messages import StreamParkedNotice
from airdraft.nodes.target.stream import TargetStream
from airdraft.nodes.worker.prefix_files import PrefixFile
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS, StreamId, key_of, most_in_common


class PrefixDisk(Protocol):
    """Where saved texts are after a restart: see PrefixThread."""

    def longest(self, owner: str, token_ids: Sequence[int]) -> tuple[PrefixFile, int] | None: ...

    def fetch(self, file: PrefixFile) -> None: ...

    def keep(self, owner: str, token_ids: Sequence[int], saved: SavedPrefix) -> None: ...

    def forget_others(self, keys: Collection[str]) -> None: ...


class NoDisk:
    """Implements PrefixDisk without keeping anything."""

    def longest(self, owner: str, token_ids: Sequence[int]) -> None:
        return None

    def fetch(self, file: PrefixFile) -> None:
        raise NotImplementedError

    def keep(self, owner: str, token_ids: Sequence[int], saved: SavedPrefix) -> None:
        return

    def forget_others(self, keys: Collection[str]) -> None:
        return


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    owner: str
    token_ids: Sequence[int]
    saved: SavedPrefix

    def stands_for(self, token_ids: Sequence[int]) -> bool:
        """Whether this entry serves wherever one of token_ids would."""
        shared = common_prefix(self.token_ids, token_ids)
        return shared == len(token_ids) and shared >= self.saved.shortest


class PrefixStore:
    """Saved prefixes within `max_bytes`; the least recently used one is dropped first.

    A prefix is used only for streams of the owner that left it: the speed of reading a prompt would
    otherwise reveal to others how that owner's texts begin.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Least recently used first.
        self._entries: dict[_Entry, None] = {}
        # The fewest positions whose saved state was too large to be kept.
        self._too_many: float = math.inf if max_bytes > 0 else 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def may_keep(self, num_positions: int) -> bool:
        """Whether the state of so many positions may fit, as far as earlier ones have shown."""
        return num_positions < self._too_many

    def use_longest(self, owner: str, token_ids: Sequence[int]) -> tuple[SavedPrefix, int] | None:
        """Use the entry with the longest useful common prefix; returns it and the length."""
        best, found = 0, None
        for entry in self._of(owner):
            shared = common_prefix(entry.token_ids, token_ids)
            if shared < entry.saved.shortest:
                continue
            # Among equals the shortest entry is best, because all of it is restored before a cut.
            if shared > best or (
                found and shared == best and entry.saved.length < found.saved.length
            ):
                best, found = shared, entry
        if found is None:
            return None
        self._use(found)
        return found.saved, best

    def use_holder(self, owner: str, token_ids: Sequence[int]) -> bool:
        """Use the entry that stands for token_ids; returns whether there is one."""
        for entry in self._of(owner):
            if entry.stands_for(token_ids):
                self._use(entry)
                return True
        return False

    def put(self, owner: str, token_ids: Sequence[int], saved: SavedPrefix) -> None:
        """Keep the saved positions of token_ids, unless they exceed the budget alone.

        Entries for which it stands are dropped.
        """
        if saved.num_bytes > self._max_bytes:
            self._too_many = min(self._too_many, saved.length)
            return
        added = _Entry(owner, token_ids, saved)
        for entry in self._of(owner):
            if added.stands_for(entry.token_ids):
                self._drop(entry)
        self._entries[added] = None
        self.num_bytes += saved.num_bytes
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def forget_others(self, keys: Collection[str]) -> None:
        """Drop the entries of owners without one of these keys."""
        for entry in [each for each in self._entries if key_of(each.owner) not in keys]:
            self._drop(entry)

    def clear(self) -> None:
        self._entries.clear()
        self.num_bytes = 0

    def _of(self, owner: str) -> list[_Entry]:
        return [entry for entry in self._entries if entry.owner == owner]

    def _use(self, entry: _Entry) -> None:
        self._entries[entry] = self._entries.pop(entry)

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry]
        self.num_bytes -= entry.saved.num_bytes


# Most positions that are restored for each one that is used: the whole saved state is restored and
# then cut. Restoring a position takes 7 us and reading a token some 4,000 us (SmolLM2-135M, one
# thread); the limit is far lower, for devices that read faster.
_RESTORED_PER_READ = 16


class Residents:
    """The sequences of one engine.

    A stream is a resident, with a seq_id, or parked. Parked streams are younger than all residents,
    so the oldest streams always continue, end, and make room. Iteration is over the residents,
    oldest first.
    """

    def __init__(
        self, model: Model, prefix_cache_bytes: int, disk: PrefixDisk | None = None
    ) -> None:
        self._model = model
        self._store = PrefixStore(prefix_cache_bytes)
        self._disk = disk or NoDisk()
        # The owners of files that are being read, and the streams that wait for them.
        self._fetched: dict[PrefixFile, str] = {}
        self._awaited: dict[StreamId, PrefixFile] = {}
        # Residents and parked ones, oldest first.
        self._streams: dict[StreamId, TargetStream] = {}
        self._free_seqs = list(range(model.info.max_sequences))[::-1]

    def __iter__(self) -> Iterator[TargetStream]:
        return (stream for stream in self._streams.values() if stream.seq_id is not None)

    def cached(self, stream: TargetStream) -> int:
        """Returns the number of a stream's positions that are in the cache."""
        return self._model.length(stream.seq_id) if stream.seq_id is not None else 0

    def shortest(self, stream: TargetStream) -> int:
        """Returns the fewest positions of a stream that can be copied."""
        return self._model.shortest(stream.seq_id) if stream.seq_id is not None else 0

    def missing(self, stream: TargetStream) -> int:
        """Returns the number of tokens to read, without the last, which the next pass decodes."""
        return len(stream.token_ids) - 1 - self.cached(stream)

    def waits(self, stream: TargetStream) -> bool:
        """Whether the beginning of a stream's text is being read from the disk."""
        return self._awaited.get(stream.spec.stream_id) in self._fetched

    def has_work(self, stream: TargetStream) -> bool:
        """Whether a stream has something to read, to decode or to announce now."""
        wants = stream.may_decode or self.missing(stream) > 0 or not stream.announced
        return wants and not self.waits(stream)

    def has_all(self, stream: TargetStream) -> bool:
        """Whether the next token of a stream can be decoded: the others are in the cache."""
        return stream.seq_id is not None and not self.missing(stream)

    def add(self, stream: TargetStream) -> None:
        """Add a stream, which is parked until resume() finds room for it."""
        self._streams[stream.spec.stream_id] = stream

    def next_parked(self) -> TargetStream | None:
        """Returns the oldest parked stream if there is room for it and for the growth of all
        residents; no younger one overtakes it."""
        used = 0
        for stream in self._streams.values():
            used += stream.cells
            if stream.seq_id is None:
                return stream if used <= self._most_cells() else None
        return None

    def _most_cells(self) -> int:
        """The cells of all streams: fewer than the cache was to have if there is no memory."""
        in_use = sum(self.cached(stream) for stream in self)
        return min(self._model.info.num_cells, in_use + self._model.free_cells())

    def resume(self) -> list[TargetStream]:
        """Let parked streams into the cache as far as they fit, and return these."""
        resumed = []
        while (stream := self.next_parked()) is not None:
            stream.seq_id = self._free_seqs.pop()
            resumed.append(stream)
        return resumed

    def make_room(self) -> list[StreamParkedNotice]:
        """Park the youngest streams until the others can continue.

        The oldest can alone, unless the cache cannot become as large as it was to be.
        """
        notices = []
        while self.shortage() > 0 and len(residents := list(self)) > 1:
            self._free(residents[-1])
            notices.append(residents[-1].park())
        return notices

    def park_all(self) -> list[StreamParkedNotice]:
        """Park all streams: the model has lost their sequences, and all that was saved."""
        self._store.clear()
        notices = []
        for stream in list(self):
            assert stream.seq_id is not None
            self._free_seqs.append(stream.seq_id)
            stream.seq_id = None
            notices.append(stream.park())
        return notices

    def shortage(self) -> int:
        """Returns the cells that residents lack for their unread texts and their next tokens.

        It is negative if some are left.
        """
        wanted = 0
        for stream in self:
            wanted += self.missing(stream)
            if stream.may_decode:
                wanted += 1
        return wanted - self._model.free_cells()

    def leave(self, stream: TargetStream, *, num_valid: int | None = None) -> None:
        """Remove a stream, and save its prefix if that is long enough.

        num_valid: positions that belong to its text, if rejected guesses may follow them.
        """
        del self._streams[stream.spec.stream_id]
        self._awaited.pop(stream.spec.stream_id, None)
        self._free(stream, num_valid)

    def _free(self, stream: TargetStream, num_valid: int | None = None) -> None:
        """Free a stream's cells, if it has any, and save its prefix."""
        seq_id, stream.seq_id = stream.seq_id, None
        if seq_id is None:
            return
        length = self._model.length(seq_id) if num_valid is None else num_valid
        token_ids = stream.token_ids[:length]
        owner, store = stream.spec.owner, self._store
        is_kept = length >= PROMPT_PIECE_TOKENS and store.may_keep(length)
        if is_kept and not store.use_holder(owner, token_ids):
            self._model.truncate(seq_id, length)
            saved = self._model.save(seq_id)
            store.put(owner, token_ids, saved)
            self._disk.keep(owner, token_ids, saved)
        self._model.truncate(seq_id, 0)
        self._free_seqs.append(seq_id)

    def forget_saved(self) -> None:
        self._store.clear()

    def forget_others(self, keys: Collection[str]) -> None:
        """Delete what was saved of owners without one of these keys."""
        self._store.forget_others(keys)
        self._disk.forget_others(keys)

    def copy_known(self, stream: TargetStream) -> bool:
        """Copy the cached or saved part of an unread text; False if more of it will be there soon,
        as another stream reads it, or it comes from the disk.

        So the choices of a request read their prompt once, and a conversation reads only new text.
        """
        if self.cached(stream) > 0:
            return True
        wanted = stream.token_ids[: stream.num_copyable]
        (best, donor), (promised, reader) = most_in_common(
            stream, len(wanted), self, self.cached, self.shortest
        )
        if not self._model.info.can_cut or self.waits(reader):
            # The other one will soon have more than this, and cannot be cut, or it will not read.
            promised = 0
        found = self._store.use_longest(stream.spec.owner, wanted)
        saved, length = found if found is not None else (None, 0)
        if saved is not None and not self._is_worth(saved.length, length):
            saved, length = None, 0
        if self._fetches(stream, wanted, max(best, length)) or promised > max(best, length):
            return False
        assert stream.seq_id is not None
        if saved is not None and length > best:
            self._model.restore(stream.seq_id, saved, length)
        elif donor.seq_id is not None and best > 0:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
        return True

    def _fetches(self, stream: TargetStream, wanted: Sequence[int], known: int) -> bool:
        """Whether more of a text than `known` tokens comes from the disk."""
        stream_id, owner = stream.spec.stream_id, stream.spec.owner
        if self.waits(stream):
            return True
        if stream_id in self._awaited or (found := self._disk.longest(owner, wanted)) is None:
            return False
        file, length = found
        is_more = length >= known + PROMPT_PIECE_TOKENS and self._is_worth(file.length, length)
        if not is_more or not self._store.may_keep(file.length):
            return False
        self._awaited[stream_id] = file
        if file not in self._fetched:
            self._fetched[file] = owner
            self._disk.fetch(file)
        return True

    def fetched(self, file: PrefixFile, saved: SavedPrefix | None) -> None:
        """Take what was read from the disk; None if it could not be."""
        owner = self._fetched.pop(file)
        if saved is not None:
            self._store.put(owner, file.token_ids, saved)

    def _is_worth(self, num_saved: int, num_wanted: int) -> bool:
        """Whether restoring num_saved positions to use num_wanted is better than reading them."""
        if num_wanted < max(PROMPT_PIECE_TOKENS, num_saved / _RESTORED_PER_READ):
            return False
        return num_saved <= self._model.free_cells()
