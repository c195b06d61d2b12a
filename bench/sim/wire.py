"""Sizes of the simulator's messages on a link, without headers."""

from __future__ import annotations

from typing import Any

from nodes.messages import (
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
)
from policies.plan import ENTRY_BITS, TEXT_BITS

_TOKEN_BITS = 32
_CHANCE_BITS = 8


def bits_of(message: Any) -> int:
    """Return the bits of a message's entries and tokens."""
    match message:
        case CommitReply(entries=entries, token_ids=ids):
            return len(entries) * ENTRY_BITS + len(ids) * (_TOKEN_BITS + TEXT_BITS)
        case CommitNotice(entries=entries, new_token_ids=ids):
            return len(entries) * ENTRY_BITS + len(ids) * _TOKEN_BITS
        case GuessNotice(parts=parts, token_ids=ids):
            return len(parts) * ENTRY_BITS + len(ids) * (_TOKEN_BITS + _CHANCE_BITS)
        case LeaseRequest(entries=entries) | HoldNotice(entries=entries):
            return len(entries) * ENTRY_BITS
        case OpenStreamRequest(token_ids=ids):
            return ENTRY_BITS + len(ids) * _TOKEN_BITS
    return ENTRY_BITS
