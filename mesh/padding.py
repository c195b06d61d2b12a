"""Joins the frames of a message into one, padded to a few sizes where lengths must reveal little.

Encryption hides contents but not lengths, and how many tokens a pass guessed and kept can identify
a prompt (arXiv 2411.01076). The length of each frame is visible, so a padded message has one frame.

Messages to a connecting socket have one frame in any case: libzmq 4.3.5 aborts a process that has
received only some frames of a message when the connection ends (`!_more`, fq.cpp).
"""

import struct
from collections.abc import Sequence
from typing import Final

from airdraft.mesh.errors import DecodeError
from airdraft.mesh.messages import MAX_MESSAGE_BYTES

# Stands in place of the version byte, which never has this value.
PADDED: Final = 0xFF
SIZES: Final = (512, 2_048, 8_192, 32_768, 131_072, 524_288)
_HEADER: Final = struct.Struct("<BII")
_NO_FRAME: Final = 0xFFFFFFFF


def pad(frames: list[bytes]) -> list[bytes]:
    """Returns one frame padded to the smallest sufficient size; larger messages are unchanged."""
    num_bytes = _HEADER.size + sum(map(len, frames))
    size = next((size for size in SIZES if size >= num_bytes), None)
    return frames if size is None else [_in_one(frames).ljust(size, b"\0")]


def join(frames: list[bytes]) -> list[bytes]:
    """Returns one frame; a message of one frame, or too large for one, is unchanged."""
    num_bytes = _HEADER.size + sum(map(len, frames))
    return frames if len(frames) == 1 or num_bytes > MAX_MESSAGE_BYTES else [_in_one(frames)]


def _in_one(frames: list[bytes]) -> bytes:
    num_second = len(frames[1]) if len(frames) > 1 else _NO_FRAME
    return b"".join((_HEADER.pack(PADDED, len(frames[0]), num_second), *frames))


def unpad(frames: Sequence[bytes]) -> Sequence[bytes]:
    """Returns the frames before pad() or join(); others are unchanged. Raises DecodeError."""
    if not frames or frames[0][:1] != b"\xff":
        return frames
    frame = frames[0]
    if len(frames) != 1 or len(frame) < _HEADER.size:
        raise DecodeError(f"padded message of {len(frames)} frames and {len(frame)} bytes")
    _, num_first, num_second = _HEADER.unpack_from(frame)
    has_second = num_second != _NO_FRAME
    end_first = _HEADER.size + num_first
    end = end_first + (num_second if has_second else 0)
    if end > len(frame):
        raise DecodeError("padded message shorter than its frames")
    if end < len(frame) and len(frame) not in SIZES:
        raise DecodeError(f"padded message of {len(frame)} bytes")
    first = frame[_HEADER.size : end_first]
    return [first, frame[end_first:end]] if has_second else [first]
