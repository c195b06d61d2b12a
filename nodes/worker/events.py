"""The events of a stream that the states of target and draft nodes return."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.engine.protocol import StreamError
from nodes.messages import StreamFailedNotice
from nodes.worker.stream import StreamId, StreamSpec


@dataclass(frozen=True, slots=True)
class Ready:
    """The text of a stream has been read.

    num_read: tokens that were run for it and not copied. has_begun: the same pass committed its
    first token.
    """

    stream_id: StreamId
    generation: int
    num_read: int = 0
    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A node cannot serve a stream. code: as in StreamFailedNotice."""

    stream_id: StreamId
    generation: int
    reason: str
    code: str = "unavailable"


def failed_by(spec: StreamSpec, generation: int, error: StreamError) -> Failed:
    """Returns the event for a stream that an error has ended, such as one of its grammar."""
    return Failed(spec.stream_id, generation, str(error), error.code)


def failed_notice(event: Failed) -> StreamFailedNotice:
    return StreamFailedNotice(event.stream_id, event.generation, event.reason[:1024], event.code)
