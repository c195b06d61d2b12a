"""Messages of a few sizes only, so that their lengths tell little of what is in them.

Encryption hides contents, not lengths, and how many tokens a round guessed and kept can identify a
prompt (arXiv 2411.01076). Every frame of a message is seen apart, so a padded one has one frame.
"""

import struct
from collections.abc import Sequence
from typing import Final

from mesh.errors import DecodeError

# In the place of the version byte, which is never so high.
PADDED: Final = 0xFF
SIZES: Final = (512, 2_048, 8_192, 32_768, 131_072, 524_288)
_HEADER: Final = struct.Struct("<BII")
_NO_FRAME: Final = 0xFFFFFFFF


def pad(frames: list[bytes]) -> list[bytes]:
    """One frame that has the least of SIZES; the message as it is, if it is larger than all."""
    first = frames[0]
    second = frames[1] if len(frames) > 1 else b""
    num_bytes = _HEADER.size + len(first) + len(second)
    size = next((size for size in SIZES if size >= num_bytes), None)
    if size is None:
        return frames
    header = _HEADER.pack(PADDED, len(first), len(second) if len(frames) > 1 else _NO_FRAME)
    return [b"".join((header, first, second)).ljust(size, b"\0")]


def join(frames: list[bytes]) -> list[bytes]:
    """The message as one frame, as a padded one but without padding.

    For who connects: where a connection is lost ZeroMQ may take a message away between its frames,
    and aborts the process that has read the first.
    """
    if len(frames) == 1:
        return frames
    first, second = frames
    return [_HEADER.pack(PADDED, len(first), len(second)) + first + second]


def unpad(frames: Sequence[bytes]) -> Sequence[bytes]:
    """The frames that were padded or joined; others as they are. Raises DecodeError."""
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
    if end != len(frame) and len(frame) not in SIZES:
        raise DecodeError(f"padded message of {len(frame)} bytes")
    first = frame[_HEADER.size : end_first]
    return [first, frame[end_first:end]] if has_second else [first]
