"""Splits a large message to the coordinator into pieces that are sent when granted. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from airdraft.nodes.messages import (
    MAX_PIECE_BYTES,
    LinkFields,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)

# Below either limit, an offer and its grant would cost the medium more than the message itself.
LEAST_BYTES: Final = 1024
LEAST_S: Final = 0.005
# A coordinator answers an offer at once. Later grants, even empty ones, keep the upload alive.
ANSWER_LIMIT_S: Final = 1.0
GRANT_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant, and the time at which it arrived."""

    grant: UploadGrant
    came_at: float

    @property
    def send_at(self) -> float:
        return self.came_at + self.grant.delay_us * 1e-6


def is_worth_offering(link: LinkFields | None, frames: Sequence[bytes]) -> bool:
    """Whether to offer a message first: it is large and goes over a shared medium."""
    if link is None or not link.air or not frames:
        return False
    num_bytes = sum(map(len, frames))
    takes_s = 8 * num_bytes / link.rate_bps if link.rate_bps else LEAST_S
    return num_bytes > LEAST_BYTES and takes_s >= LEAST_S


class Upload:
    """The frames of a message, and how much of them has been sent."""

    def __init__(self, request_id: int, frames: Sequence[bytes]) -> None:
        self._request_id = request_id
        self._data = b"".join(frames)
        self._num_head_bytes = len(frames[0])
        self._num_sent = 0

    def offer(self, priority: int, link: LinkFields) -> UploadOffer:
        return UploadOffer(self._request_id, len(self._data), self._num_head_bytes, priority, link)

    @property
    def is_over(self) -> bool:
        return self._num_sent == len(self._data)

    def piece(self, num_bytes: int) -> UploadPiece:
        """Returns the next bytes as a piece."""
        offset = self._num_sent
        data = self._data[offset : offset + num_bytes]
        self._num_sent += len(data)
        return UploadPiece(self._request_id, offset, data)

    def rest(self) -> list[UploadPiece]:
        """Returns all that is left, for the case that grants stop arriving."""
        pieces = []
        while not self.is_over:
            pieces.append(self.piece(MAX_PIECE_BYTES))
        return pieces
