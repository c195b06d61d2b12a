"""The messages that the coordinator's pure state returns for its shell to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airdraft.nodes.messages import GuessNotice, TokensNotice, output_of
from airdraft.nodes.worker.stream import StreamId


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a peer."""

    peer: bytes
    message: Any


def streams_of(message: Any) -> list[StreamId]:
    """Returns the streams that a message to or from a node is about."""
    if isinstance(message, GuessNotice):
        entries = message.parts
    else:
        entries = getattr(message, "entries", (message,))
    return [StreamId(entry.stream_id) for entry in entries if hasattr(entry, "stream_id")]


def coalesced(sends: Sequence[Send]) -> list[Send]:
    """Put all tokens for a client into one message, in the place of the first of them.

    So they come before the end of any of these texts, as they have to.
    """
    tokens: dict[bytes, list[TokensNotice]] = {}
    for send in sends:
        if isinstance(send.message, TokensNotice):
            tokens.setdefault(send.peer, []).append(send.message)
    out: list[Send] = []
    for send in sends:
        if not isinstance(send.message, TokensNotice):
            out.append(send)
        elif notices := tokens.pop(send.peer, None):
            out.append(send if len(notices) == 1 else Send(send.peer, output_of(notices)))
    return out
