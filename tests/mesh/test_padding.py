"""Padded messages: one frame of one of a few sizes, and what was in it comes out whole."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.mesh.codec import decode
from airdraft.mesh.errors import DecodeError
from airdraft.mesh.messages import MAX_MESSAGE_BYTES
from airdraft.mesh.padding import PADDED, SIZES, join, pad, unpad

(JOINED,) = join([b"\x01", b"x"])
# An empty second frame is not the same as none.
FRAMES = st.builds(
    lambda first, second: [first, *second],
    st.binary(min_size=1, max_size=3000),
    st.lists(st.binary(max_size=3000), max_size=1),
)


@given(FRAMES)
def test_what_was_padded_or_joined_comes_back(frames):
    (padded,) = pad(frames)
    assert len(padded) in SIZES
    assert list(unpad([padded])) == frames
    # As a message begins, whose version is never so high.
    frames[0] = b"\x01" + frames[0]
    joined = join(frames)
    assert len(joined) == 1
    assert len(joined[0]) == sum(map(len, frames)) + (9 if len(frames) > 1 else 0)
    assert list(unpad(joined)) == frames


def test_what_is_too_large_for_one_frame_is_not_joined():
    whole = [b"\x01" * (MAX_MESSAGE_BYTES - 10), b"x"]
    assert len(join(whole)[0]) == MAX_MESSAGE_BYTES
    larger = [*whole[:1], b"xy"]
    assert join(larger) is larger


@pytest.mark.parametrize("size", SIZES)
def test_what_just_fits_is_padded_to_no_larger_size(size):
    larger = next((other for other in SIZES if other > size), size - 8)
    for num_bytes, padded in ((size - 9, size), (size - 8, larger)):
        found = pad([b"\x01" * num_bytes])
        assert len(found[0]) == padded
        assert unpad(found) == [b"\x01" * num_bytes]


def test_what_is_larger_than_all_sizes_is_left_as_it_is():
    frames = [b"\x01" * SIZES[-1], b"x"]
    assert pad(frames) is frames
    assert unpad(frames) is frames
    # The shortest is an empty frame.
    assert unpad([struct.pack("<BII", PADDED, 0, 0xFFFFFFFF)]) == [b""]


@pytest.mark.parametrize(
    "frames",
    [
        [bytes([PADDED])],
        # Nothing is behind a joined message.
        *([wrong] for wrong in (JOINED[:-1], JOINED + b"\0", JOINED[:8])),
        [bytes([PADDED]) * SIZES[0]],
        [bytes([PADDED]) + bytes(SIZES[0])],
        [bytes([PADDED]) + bytes(SIZES[0] - 1), b""],
        [bytes([PADDED, 0xFF, 0xFF, 0xFF, 0xFF]) + bytes(SIZES[0] - 5)],
        [bytes([PADDED, 0, 1, 0, 0, 0, 1, 0, 0]) + bytes(SIZES[0] - 9)],
    ],
)
def test_torn_padding_is_a_decode_error(frames):
    for read in (unpad, decode):
        with pytest.raises(DecodeError):
            read(frames)


@given(st.lists(st.binary(max_size=600), max_size=3))
def test_nothing_else_comes_of_any_bytes(frames):
    marked = [bytes([PADDED]) + frame for frame in frames[:1]] + frames[1:]
    for candidate in (marked, [f.ljust(SIZES[0], b"\1")[: SIZES[0]] for f in marked]):
        try:
            decode(candidate)
        except DecodeError:
            pass
        else:
            pytest.fail("random bytes are no message")
