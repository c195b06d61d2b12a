"""Round trips of every registered message, and everything a peer may send instead."""

import contextlib
import dataclasses
import math
import struct
import tracemalloc
from typing import get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.mesh.codec import (
    MAX_STRUCT_BYTES,
    Envelope,
    decode,
    decode_struct,
    encode,
    encode_struct,
)
from airdraft.mesh.errors import DecodeError, LocalProtocolError, VersionError
from airdraft.mesh.messages import (
    PROTOCOL_VERSION,
    Bye,
    Credit,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
    spec_of_tag,
)
from airdraft.mesh.messages import struct as as_struct
from airdraft.mesh.padding import pad
from airdraft.mesh.schema import INT_MAX, INT_MIN, MaxLen, Range, TokenIdsMarker, unwrapped
from airdraft.mesh.shared_numbers import shared
from airdraft.nodes.messages import TokenizeReply
from tests.mesh.wire_examples import Everything, Guess, Link, Small, Wide

MAX_EXAMPLE_LEN = 40


def instances(cls):
    """Any valid instance of a message or struct class."""
    hints = get_type_hints(cls, include_extras=True)
    names = [f.name for f in dataclasses.fields(cls)]
    return st.builds(cls, **{name: values(hints[name]) for name in names})


def values(hint):
    hint, marks = unwrapped(hint)
    if TokenIdsMarker in marks:
        ids = st.integers(0, 2**16 - 1) | st.integers(0, 2**32 - 1)
        return st.lists(ids, max_size=4).map(tuple)
    bounds = marks.get(Range)
    max_len = min(MAX_EXAMPLE_LEN, marks.get(MaxLen, MaxLen(MAX_EXAMPLE_LEN)).n)
    if hint is int:
        lo, hi = (INT_MIN, INT_MAX) if bounds is None else (bounds.lo, bounds.hi)
        return st.integers(lo, hi)
    if hint is float:
        lo, hi = (None, None) if bounds is None else (bounds.lo, bounds.hi)
        return st.floats(lo, hi, allow_nan=False, allow_infinity=False)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(max_size=max_len)
    if hint is bytes:
        return st.binary(max_size=max_len)
    args = get_args(hint)
    if get_origin(hint) is tuple:
        return st.lists(values(args[0]), max_size=min(max_len, 5)).map(tuple)
    return instances(hint)


MESSAGES = [Hello, Welcome, Refuse, Ping, Pong, Credit, Bye, Everything, Guess]
MANY = tuple(1000 + i % 30_000 for i in range(131_072))
any_message = st.one_of([instances(cls) for cls in MESSAGES])
LINK = Link("n", 1.0, ((1, 2), ()))
EVERYTHING = Everything("r", (1, 2), True, 0.5, b"", (), LINK, (LINK,), 7)


VERSION = bytes([PROTOCOL_VERSION])


def frame(*values):
    return VERSION + msgpack.packb(list(values))


@given(any_message, st.text(max_size=64), st.integers(0, 2**63 - 1))
def test_round_trip(message, cluster, epoch):
    frames = encode(message, cluster=cluster, epoch=epoch)
    assert decode(frames) == Envelope(cluster, epoch, message)
    assert type(decode(frames).message) is type(message)
    assert encode(decode(frames).message, cluster=cluster, epoch=epoch) == frames
    assert decode(pad(frames)) == decode(frames)


@given(any_message, st.data())
def test_mutated_frames_decode_or_raise_decode_error(message, data):
    frames = [bytearray(f) for f in encode(message)]
    for _ in range(data.draw(st.integers(1, 3))):
        target = frames[data.draw(st.integers(0, len(frames) - 1))]
        at = data.draw(st.integers(0, len(target)))
        junk = data.draw(st.binary(max_size=3))
        target[at : at + data.draw(st.integers(0, 3))] = junk
    decodes_or_blames_the_peer([bytes(f) for f in frames])


@given(st.lists(st.binary(max_size=64), max_size=4), st.integers(0, 255))
def test_random_frames_decode_or_raise_decode_error(frames, tag):
    decodes_or_blames_the_peer(frames)
    if frames:
        decodes_or_blames_the_peer([bytes([1, 0x97, tag]) + frames[0], *frames[1:]])


@given(st.binary(max_size=200))
def test_random_structs_decode_or_raise_decode_error(data):
    with contextlib.suppress(DecodeError):
        assert isinstance(decode_struct(Link, data), Link)


def decodes_or_blames_the_peer(frames):
    with contextlib.suppress(DecodeError):
        decoded = decode(frames)
        # Whatever passes is valid all through: it can be sent again.
        encode(decoded.message, cluster=decoded.cluster, epoch=decoded.epoch)


def test_frame_0_is_version_and_tagged_array():
    frames = encode(Guess(a=5, token_ids=(1, 65535)), cluster="home", epoch=3)
    assert frames[0][0] == PROTOCOL_VERSION
    assert msgpack.unpackb(frames[0][1:]) == [241, "home", 3, 2, 5, 0, 0, 0, 0, 0, 0, 0]
    assert frames[1] == b"\x01\x00\xff\xff"
    assert len(encode(Ping(seq=1, progress=2))) == 1
    # Ids are as wide as the largest of them needs.
    wide = struct.pack("<2I", 1, 65536)
    for token_ids, raw in (((), b""), ((65535,), b"\xff\xff"), ((1, 65536), wide)):
        assert encode(Guess(token_ids=token_ids))[1] == raw


PING = [4, "", 0, 0, 1, 2]
GUESS = frame(241, "", 0, 2, *range(8))


@pytest.mark.parametrize(
    "frames",
    [
        *([], [b""]),
        *([VERSION + rest] for rest in (b"", b"\xc0", b"\x91\x04", b"\xdc\x00")),
        [bytes([PROTOCOL_VERSION + 1]) + frame(*PING)[1:]],
        *([frame(*PING), b""], [frame(*PING) + b"\x00"], [frame(*PING)[:-1]]),
        [VERSION + b"\x96\xcd\x00\x04" + frame(*PING)[3:]],
        *([frame(*PING[:-1])], [frame(*PING, 3)], [frame(99, *PING[1:])]),
        *([frame(4, cluster, 0, 0, 1, 2)] for cluster in ("c" * 65, b"")),
        *([frame(4, "", epoch, 0, 1, 2)] for epoch in (-1, 2**63)),
        [frame(4, "", 0, 2, 1, 2)],
        *([frame(4, "", 0, 0, seq, 2)] for seq in (True, 1.0, -1, 2**63, {})),
        *([frame(4, "", 0, 0, s, 2)] for s in (msgpack.ExtType(1, b""), msgpack.Timestamp(1))),
        *([frame(7, "", 0, 0, reason)] for reason in ("r" * 257, b"raw")),
        [VERSION + b"\x95\x07\xa0\x00\x00\xa1\xff"],
        *([frame(2, "", 0, 0, "n", "c", 0, s, 1.0)] for s in (math.nan, math.inf, 1, -0.5)),
        [GUESS],
        [GUESS, b"", b""],
        [GUESS, b"\x01"],
        [GUESS, b"\x01\x00" * 65],
        [GUESS, b"\x01\x00" * 1000],
        [frame(241, "", 0, 0, *range(8)), b""],
        [frame(241, "", 0, 3, *range(8)), b"abc"],
        [frame(241, "", 0, 4, *range(8)), b"\x01\x00"],
        [VERSION + b"\x96\x04\xa0\x00\x00" + b"\x91" * 60 + b"\x00\x00"],
        [VERSION + b"\x96\x04" + b"\xc0" * 5000],
    ],
)
def test_malformed_frames_are_decode_errors(frames):
    with pytest.raises(DecodeError):
        decode(frames)


@pytest.mark.parametrize(
    "change",
    [
        *({"request_id": wrong} for wrong in (b"r", "r" * 1025, "\ud800")),
        *({"token_ids": wrong} for wrong in ([1], (-1,), (2**32,), (0,) * 65)),
        *({"share": wrong} for wrong in (math.nan, 1.5, "0")),
        *({"flag": 1}, {"raw": b"123456789"}, {"seed": 2**64}, {"seed": -1}),
        *({"names": wrong} for wrong in (["a"], ("a",) * 4, ("abcdef",))),
        *({"link": None}, {"link": EVERYTHING}),
        {"links": (Link("n", 1.0, (tuple(range(1025)),)),)},
        {"links": (Link("n" * 1000, 1.0, ()),) * 20},
    ],
)
def test_what_breaks_the_schema_is_not_sent(change):
    with pytest.raises(LocalProtocolError):
        encode(dataclasses.replace(EVERYTHING, **change))


@pytest.mark.parametrize(
    ("cluster", "epoch"),
    [("c" * 65, 0), (b"", 0), ("\ud800", 0), ("", -1), ("", True), ("", 2**63)],
)
def test_bad_header_is_not_sent(cluster, epoch):
    with pytest.raises(LocalProtocolError):
        encode(Bye(reason=""), cluster=cluster, epoch=epoch)


def test_an_int_is_taken_for_a_float():
    message = dataclasses.replace(EVERYTHING, share=1)
    assert type(decode(encode(message)).message.share) is float


def test_unregistered_classes_are_our_bug():
    for call in (encode, encode_struct):
        with pytest.raises(LocalProtocolError):
            call(object())
    with pytest.raises(LocalProtocolError):
        decode_struct(object, b"")


def test_error_text_never_shows_what_was_sent():
    with pytest.raises(LocalProtocolError, match=r"Everything\.names.*: length 6 above 5"):
        encode(dataclasses.replace(EVERYTHING, names=("abcdef",)))
    secret = b"my secret prompt"
    raw = VERSION + b"\x95\x07\xa0\x00\x00\xb1" + secret + b"\xff"
    for bad in (*(frame(4, "", 0, 0, s, 2) for s in (secret.decode(), secret + b"\xff")), raw):
        with pytest.raises(DecodeError) as caught:
            decode([bad])
        assert "secret" not in str(caught.value)


@as_struct
class Long:
    items: tuple[bytes, ...]


@as_struct
class Even:
    number: int

    def __post_init__(self):
        if self.number % 2:
            raise ValueError("odd")


def test_a_frame_may_be_as_long_as_its_limit_and_no_longer():
    largest = encode(Small(b"x" * 55))
    assert len(largest[0]) == 64
    assert decode(largest).message == Small(b"x" * 55)
    with pytest.raises(LocalProtocolError, match="65 bytes, at most 64"):
        encode(Small(b"x" * 56))
    with pytest.raises(DecodeError, match="65 bytes, at most 64"):
        decode([frame(242, "", 0, 0, b"x" * 56)])


def test_a_message_may_have_as_many_tokens_as_its_limit_and_no_more():
    tokens = tuple(range(1 << 20, (1 << 20) + 64))
    frames = encode(Guess(token_ids=tokens))
    assert decode(frames).message == Guess(token_ids=tokens)
    with pytest.raises(DecodeError, match="too long"):
        decode([frames[0], frames[1] + b"\0"])


def test_a_message_with_many_fields_has_a_longer_header():
    frames = encode(Wide(f11=7), cluster="c" * 64)
    assert frames[0][1:2] == b"\xdc"
    assert decode(frames) == Envelope("c" * 64, 0, Wide(f11=7))


def test_a_struct_may_be_as_long_as_its_limit_and_no_longer():
    largest = Long((b"x" * 40_000, b"x" * 25_528))
    assert len(encode_struct(largest)) == MAX_STRUCT_BYTES
    assert decode_struct(Long, encode_struct(largest)) == largest
    with pytest.raises(LocalProtocolError, match="65537 bytes"):
        encode_struct(Long((b"x" * 40_000, b"x" * 25_529)))
    with pytest.raises(LocalProtocolError):
        encode_struct(Long((1,)))
    for data in (b"x" * 65537, b"", b"\xc0", b"\x90", b"\x91\xc0", b"\x91\x90\x00"):
        with pytest.raises(DecodeError):
            decode_struct(Long, data)


def test_a_class_may_check_itself():
    assert decode_struct(Even, encode_struct(Even(2))) == Even(2)
    with pytest.raises(DecodeError, match="odd"):
        decode_struct(Even, msgpack.packb([3]))


@pytest.mark.parametrize("header", [b"\x9f", b"\xdc\x00\xff", b"\xdd\x00\x00\x00\xff", b"\x92\x01"])
def test_nested_arrays_cost_no_memory(header):
    """Every message type, as much of the bomb as it may be long, at each of its places."""
    for tag in range(1, 256):
        spec = spec_of_tag(tag)
        if spec is None:
            continue
        num_fields = spec.layout.num_fields + 4
        start = VERSION + (
            bytes([0x90 | num_fields]) if num_fields < 16 else b"\xdc\0" + bytes([num_fields])
        )
        for before in (b"", encode_tag(tag), encode_tag(tag) + b"\xa0\x00\x00"):
            bomb = (start + before + header * (spec.max_bytes // len(header)))[: spec.max_bytes]
            frames = [bomb] + ([b""] if spec.layout.token_field else [])
            tracemalloc.start()
            try:
                with pytest.raises(DecodeError):
                    decode(frames)
                assert tracemalloc.get_traced_memory()[1] < 2 * len(bomb) + 65_536
            finally:
                tracemalloc.stop()


def encode_tag(tag):
    return bytes([tag]) if tag < 128 else bytes([0xCC, tag])


def test_another_version_says_which_and_whether_it_asks_to_join_or_enrol():
    for version in (0, PROTOCOL_VERSION + 1, 254):
        heads = (b"\x99\x01", True), (b"\x9f\x01", True), (b"\x96\x08", True), (b"\x99\x03", False)
        for head, is_asking in heads:
            with pytest.raises(VersionError, match=f"version {version}, but this") as caught:
                decode([bytes([version]) + head])
            assert (caught.value.version, caught.value.is_asking) == (version, is_asking)
    with pytest.raises(VersionError) as caught:
        decode([b"\x07"])
    assert not caught.value.is_asking


def test_more_or_fewer_fields_than_are_known_are_no_message():
    assert decode([frame(3, "", 0, 0, "why", "")]).message == Refuse("why")
    for fields in (("why",), ("why", "", "more")):
        with pytest.raises(DecodeError, match="fields, expected 6"):
            decode([frame(3, "", 0, 0, *fields)])


def test_a_message_of_the_most_token_ids_takes_a_megabyte():
    for values in ((), (1, 2, 3), MANY, (*MANY, (1 << 32) - 1, 1 << 18, (1 << 18) - 1)):
        assert shared(values) == values
    frames = encode(TokenizeReply(1, "", MANY))
    decode(frames)
    tracemalloc.start()
    try:
        kept = [decode(frames) for _ in range(4)]
        num_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == 4
    assert num_bytes / 4 < 1.2e6


def test_numbers_that_no_vocabulary_has_are_not_kept():
    once, again = (shared(range(10**6, 10**6 + 64)) for _ in range(2))
    assert once[0] is again[0]
    for first in range(0, 4 << 18, 1 << 17):
        shared(range(first, first + (1 << 17)))
    assert shared(range(10**6, 10**6 + 64))[0] is not once[0]
