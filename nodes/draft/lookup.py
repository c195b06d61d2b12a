"""Drafting by prompt lookup, without a model."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.draft.state import Drafted, Event, Guess, Job
from nodes.engine.ngram import NgramIndex
from nodes.stream import StreamId, StreamSpec
from nodes.target.state import Failed, Ready


class NgramDrafter:
    """Guesses by prompt lookup: what followed the last tokens the last time they occurred."""

    def __init__(self, max_streams: int = 256) -> None:
        self._streams: dict[StreamId, tuple[int, NgramIndex]] = {}
        self._max_streams = max_streams
        self.num_stale = 0

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def open(self, spec: StreamSpec) -> list[Event]:
        known = self._streams.get(spec.stream_id)
        if known is not None and known[0] >= spec.generation:
            self.num_stale += 1
            return []
        if known is None and len(self._streams) >= self._max_streams:
            reason = f"prompt lookup holds {self._max_streams} streams already"
            return [Failed(spec.stream_id, spec.generation, reason)]
        index = NgramIndex()
        index.extend(spec.token_ids)
        self._streams[spec.stream_id] = (spec.generation, index)
        return [Ready(spec.stream_id, spec.generation)]

    def close(self, stream_id: StreamId, generation: int) -> None:
        known = self._streams.get(stream_id)
        if known is not None and known[0] == generation:
            del self._streams[stream_id]

    def forget_all(self) -> None:
        self._streams.clear()

    def draft(self, round_id: int, jobs: Sequence[Job]) -> list[Event]:
        guesses = []
        events: list[Event] = []
        for job in jobs:
            known = self._streams.get(job.stream_id)
            if known is None or known[0] != job.generation:
                self.num_stale += 1
                continue
            index = known[1]
            if job.prefix_len != len(index):
                del self._streams[job.stream_id]
                reason = f"out of step: at {len(index)} tokens, not {job.prefix_len}"
                events.append(Failed(job.stream_id, job.generation, reason))
                continue
            index.extend(job.new_token_ids)
            found = tuple(index.propose(job.gamma))
            guesses.append(Guess(job.stream_id, job.generation, len(index), found))
        return [*events, Drafted(round_id, tuple(guesses))]

    def has_work(self) -> bool:
        return False

    def step(self) -> list[Event]:
        return []
