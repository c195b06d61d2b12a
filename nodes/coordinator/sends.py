"""The messages that the coordinator's pure state returns for its shell to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nodes.messages import GuessNotice
from nodes.worker.stream import StreamId


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a peer; its bytes are charged to the streams it is about."""

    peer: bytes
    message: Any
    streams: tuple[StreamId, ...] = ()
    to_draft: bool = False


def streams_of(message: Any) -> tuple[StreamId, ...]:
    """Return the streams that a message to a node is about."""
    entries = message.parts if isinstance(message, GuessNotice) else None
    entries = getattr(message, "entries", entries)
    if entries is not None:
        return tuple(StreamId(entry.stream_id) for entry in entries)
    return (StreamId(message.stream_id),)
