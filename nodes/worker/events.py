"""What happened to a stream at a node that serves it, as its state says it."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.engine.protocol import StreamError
from nodes.messages import StreamFailedNotice
from nodes.worker.stream import StreamId, StreamSpec


@dataclass(frozen=True, slots=True)
class Ready:
    """num_read: tokens that were run for it, not copied. has_begun: the same pass committed its
    first token."""

    stream_id: StreamId
    generation: int
    num_read: int = 0
    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """code: as in StreamFailedNotice."""

    stream_id: StreamId
    generation: int
    reason: str
    code: str = "unavailable"


def failed_by(spec: StreamSpec, generation: int, error: StreamError) -> Failed:
    """A stream that cannot go on, such as one whose grammar cannot be used."""
    return Failed(spec.stream_id, generation, str(error), error.code)


def failed_notice(event: Failed) -> StreamFailedNotice:
    return StreamFailedNotice(event.stream_id, event.generation, event.reason[:1024], event.code)
