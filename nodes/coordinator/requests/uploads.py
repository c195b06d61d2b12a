"""Schedules the pieces of large requests that clients upload over shared media. Pure.

On each medium one client sends a piece at a time, between texts to draft nodes. The client whose
remaining bytes take the least airtime for its weight goes first, and long waiting counts against
that airtime. The next grant is sent while a piece is in transit. Grants bind only clients that wait
for them: pieces without a grant are accepted as well.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from airdraft.mesh.grants import Air, Reservation
from airdraft.mesh.padding import SIZES
from airdraft.mesh.rates import RateEstimate
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    DEFAULT_PRIORITY,
    MAX_PIECE_BYTES,
    LinkFields,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)

# Airtime of a piece, and so the longest delay it causes to a message without a turn.
PIECE_S: Final = 0.02
LEAST_PIECE_BYTES: Final = 256
# Used while a link's rate is unknown.
_FIRST_PIECE_BYTES: Final = 1024
_FIRST_BPS: Final = 250e3
# Bytes that the message, ZeroMQ with keys, TCP and IP add to a piece.
_OVERHEAD_BYTES: Final = 148
# Granted pieces of one medium: one is being sent while the grant of the next one travels.
_MOST_OUT: Final = 2
# A client that has not sent its piece this long after its turn is no longer waited for.
_OVERDUE_S: Final = 1.0
# Seconds of airtime for which a second of waiting makes up. Without it small uploads could keep a
# large one waiting for ever; with more of it they would wait for a large one that is half done.
_AIRTIME_A_WAIT: Final = 1 / 8
# Interval of notices to waiting clients, so that they do not take the coordinator for lost.
_WAIT_NOTICE_S: Final = 6.0
_SILENT_S: Final = 60.0
_MAX_UPLOADS: Final = 256
# Limits for all uploads of one client, and for those of all together. What finds no room is sent
# without grants.
_MAX_BYTES_OF_PEER: Final = 1 << 25
MAX_BYTES_OF_ALL: Final = 1 << 27
_LEAST_BPS: Final = 1000.0
# A larger declared frame_s is refused, because each grant keeps others off the medium that long.
_MOST_FRAME_S: Final = 1.0

Key = tuple[bytes, int]


class _Out(NamedTuple):
    """A granted piece that has not arrived. end: its last byte's offset plus 1. delay_s: how long
    its client was to wait."""

    end: int
    granted_at: float
    delay_s: float
    turn: Reservation


@dataclass(slots=True)
class _Upload:
    """One upload. rate: measured from its pieces, used if none was declared. notified_at: when its
    client was last sent a grant or notice."""

    offer: UploadOffer
    rtt_s: float
    pads: bool
    offered_at: float
    notified_at: float
    num_granted: int = 0
    data: bytearray = field(default_factory=bytearray)
    out: deque[_Out] = field(default_factory=deque)
    rate: RateEstimate = field(default_factory=RateEstimate)

    @property
    def link(self) -> LinkFields:
        return self.offer.link

    @property
    def num_left(self) -> int:
        return self.offer.num_bytes - self.num_granted

    @property
    def rate_bps(self) -> float:
        return self.link.rate_bps or self.rate.bps or _FIRST_BPS

    def air_s(self, num_bytes: int) -> float:
        """Returns the airtime of a message with so many bytes of the upload."""
        size = num_bytes + _OVERHEAD_BYTES
        if self.pads:
            size = next((padded for padded in SIZES if padded >= size), size)
        return self.link.frame_s + 8 * size / self.rate_bps

    def most_bytes(self, seconds: float) -> int:
        """Returns the bytes of the upload that a message of this airtime carries, or the least."""
        if not self.link.rate_bps and self.rate.bps is None:
            return min(_FIRST_PIECE_BYTES, self.num_left)
        room = (seconds - self.link.frame_s) * self.rate_bps / 8
        if self.pads:
            # A message is padded up to the next size, so use a size as a whole.
            room = max((size for size in SIZES if size <= room), default=SIZES[0])
        # 1e-3 absorbs the rounding error of a gap that is exactly one piece long.
        num_bytes = max(LEAST_PIECE_BYTES, int(room + 1e-3) - _OVERHEAD_BYTES)
        return min(MAX_PIECE_BYTES, num_bytes, self.num_left)

    def price(self, now: float) -> float:
        """Airtime of the remaining bytes divided by the weight, less what the time since the offer
        makes up for; the lowest goes first."""
        price_s = self.air_s(self.num_left) * DEFAULT_PRIORITY / self.offer.priority
        return price_s - _AIRTIME_A_WAIT * (now - self.offered_at)

    def is_overdue(self, now: float, for_s: float = _OVERDUE_S) -> bool:
        return bool(self.out) and now >= self.out[0].turn.end + for_s


class Uploads:
    """All uploads in progress. rtt_s: returns the round trip to a client."""

    def __init__(self, air: Air, rtt_s: Callable[[bytes], float], *, pads: bool = False) -> None:
        self._air = air
        self._rtt_s = rtt_s
        self._pads = pads
        self._uploads: dict[Key, _Upload] = {}
        # When grants() must be called if no message comes before.
        self.next_deadline: float | None = None

    @property
    def num_under_way(self) -> int:
        return len(self._uploads)

    def offered(self, peer: bytes, offer: UploadOffer, now: float) -> list[Send]:
        """Add an offered upload to its medium's line, and return the grants that follow.

        An offer that cannot be accepted is not answered. Its client then sends the request whole
        after a second, as with a coordinator that does not know offers.
        """
        key = peer, offer.request_id
        if key in self._uploads or not self._has_room(peer, offer) or not _is_sound(offer):
            return []
        self._uploads[key] = upload = _Upload(offer, self._rtt_s(peer), self._pads, now, now)
        out = self.grants(now)
        if not upload.num_granted:
            out.append(Send(peer, UploadGrant(offer.request_id, 0, 0)))
        return out

    def _has_room(self, peer: bytes, offer: UploadOffer) -> bool:
        of_all = of_peer = offer.num_bytes
        for (client, _), upload in self._uploads.items():
            of_all += upload.offer.num_bytes
            of_peer += upload.offer.num_bytes if client == peer else 0
        is_modest = of_peer <= _MAX_BYTES_OF_PEER and of_all <= MAX_BYTES_OF_ALL
        return is_modest and len(self._uploads) < _MAX_UPLOADS

    def arrived(
        self, peer: bytes, piece: UploadPiece, now: float
    ) -> tuple[list[bytes] | None, bool]:
        """Take a piece: return the whole message's frames after the last one, else None, and
        whether the piece was expected."""
        key = peer, piece.request_id
        upload = self._uploads.get(key)
        if upload is None:
            return None, False
        end = piece.offset + len(piece.data)
        if piece.offset != len(upload.data) or not piece.data or end > upload.offer.num_bytes:
            del self._uploads[key]
            return None, False
        upload.data += piece.data
        upload.num_granted = max(upload.num_granted, end)
        while upload.out and upload.out[0].end <= end:
            out = upload.out.popleft()
            if out.end == end:
                seconds = now - out.granted_at - out.delay_s
                upload.rate.observe(len(piece.data) + _OVERHEAD_BYTES, seconds, upload.rtt_s)
        if end < upload.offer.num_bytes:
            return None, True
        del self._uploads[key]
        data, head = bytes(upload.data), upload.offer.num_head_bytes
        return [data[:head], data[head:]], True

    def forget(self, peer: bytes, request_id: int) -> None:
        """Remove the upload of a request that was sent whole or cancelled."""
        self._uploads.pop((peer, request_id), None)

    def gone(self, peer: bytes) -> None:
        for key in [key for key in self._uploads if key[0] == peer]:
            del self._uploads[key]

    def grants(self, now: float) -> list[Send]:
        """Returns the grants and waiting notices that are due now."""
        for key in [k for k, u in self._uploads.items() if u.is_overdue(now, _SILENT_S)]:
            del self._uploads[key]
        out: list[Send] = []
        deadlines = []
        media: dict[str, list[Key]] = {}
        for key, upload in self._uploads.items():
            media.setdefault(upload.link.air, []).append(key)
        for line in media.values():
            while (next_at := self._next_grant(line, now)) <= now:
                waiting = self._waiting(line, now)
                first = min(waiting, key=lambda key: self._uploads[key].price(now))
                out.append(Send(first[0], self._grant(self._uploads[first], now)))
            if next_at < math.inf:
                deadlines.append(next_at)
        for (peer, request_id), upload in self._uploads.items():
            if not upload.out and now - upload.notified_at >= _WAIT_NOTICE_S:
                upload.notified_at = now
                out.append(Send(peer, UploadGrant(request_id, 0, 0)))
        self.next_deadline = min(deadlines, default=None)
        return out

    def _waiting(self, line: list[Key], now: float) -> list[Key]:
        """Returns the uploads to which a piece may be granted: none of a client that has left a
        grant unused, because it could keep others off the medium with one after another."""
        late = {peer for peer, number in line if self._uploads[peer, number].is_overdue(now)}
        return [key for key in line if self._uploads[key].num_left > 0 and key[0] not in late]

    def _next_grant(self, line: list[Key], now: float) -> float:
        """Returns when the next piece on a medium may be granted; inf if no upload waits."""
        uploads = [self._uploads[key] for key in line]
        if not self._waiting(line, now):
            return math.inf
        out = [piece for u in uploads if not u.is_overdue(now) for piece in u.out]
        if not out:
            return now
        ends = [piece.turn.end for piece in out]
        if len(out) >= _MOST_OUT:
            return min(ends) + _OVERDUE_S
        # The grant then arrives when the medium is free again.
        return max(ends) - max(upload.rtt_s for upload in uploads)

    def _grant(self, upload: _Upload, now: float) -> UploadGrant:
        medium = self._air[upload.link.air]
        grant = medium.reserve(now, now, upload.air_s(0))
        comes_at = grant.end + upload.rtt_s / 2
        most_s = upload.air_s(upload.most_bytes(PIECE_S))
        least_s = min(most_s, upload.air_s(upload.most_bytes(0.0)))
        turn = medium.reserve_gap(now, comes_at, least_s, most_s)
        num_bytes = upload.most_bytes(turn.end - turn.start)
        delay_us = min(10_000_000, round(max(0.0, turn.start - comes_at) * 1e6))
        upload.num_granted += num_bytes
        upload.notified_at = now
        upload.out.append(_Out(upload.num_granted, now, delay_us * 1e-6, turn))
        return UploadGrant(upload.offer.request_id, num_bytes, delay_us)


def _is_sound(offer: UploadOffer) -> bool:
    """Whether an offer names a medium and its other fields are plausible."""
    link = offer.link
    known = link.rate_bps == 0 or link.rate_bps >= _LEAST_BPS
    is_short = link.frame_s <= _MOST_FRAME_S
    return bool(link.air) and known and is_short and offer.num_head_bytes <= offer.num_bytes
