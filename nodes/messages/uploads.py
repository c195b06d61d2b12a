"""The messages by which clients send large requests in pieces."""

from __future__ import annotations

from typing import Annotated, Final

from mesh.messages import MaxLen, Range, message
from nodes.messages.fields import (
    MAX_PRIORITY,
    MAX_PROMPT_TOKENS,
    MAX_SUBMIT_BYTES,
    Count,
    Id,
    LinkFields,
)

# Both frames of a SubmitRequest.
MAX_UPLOAD_BYTES: Final = MAX_SUBMIT_BYTES + 4 * MAX_PROMPT_TOKENS
MAX_PIECE_BYTES: Final = 32_768


@message(47)
class UploadOffer:
    """A client has a SubmitRequest of num_bytes to send over a shared medium.

    num_head_bytes: length of its frame 0, which comes first. priority: as in the request.
    """

    request_id: Id
    num_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    num_head_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    priority: Annotated[int, Range(1, MAX_PRIORITY)]
    link: LinkFields


@message(48)
class UploadGrant:
    """The client may send num_bytes more, delay_us microseconds after it received this message.

    num_bytes: 0 if it must wait for another grant.
    """

    request_id: Id
    num_bytes: Annotated[int, Range(0, MAX_PIECE_BYTES)]
    delay_us: Annotated[int, Range(0, 10_000_000)]


@message(49, max_bytes=MAX_PIECE_BYTES + 1024)
class UploadPiece:
    """Bytes of the offered frames, from `offset` on."""

    request_id: Id
    offset: Count
    data: Annotated[bytes, MaxLen(MAX_PIECE_BYTES)]
