"""Encodes messages as frames and decodes them. Only this module uses MessagePack."""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgpack

from airdraft.mesh.errors import DecodeError, LocalProtocolError, VersionError
from airdraft.mesh.messages import PROTOCOL_VERSION, MessageSpec, spec_of_class, spec_of_tag
from airdraft.mesh.padding import unpad
from airdraft.mesh.schema import INT_MAX, Layout, Reader, struct_layout
from airdraft.mesh.shared_numbers import shared

MAX_CLUSTER_CHARS: Final = 64
MAX_STRUCT_BYTES: Final = 65536
_NUM_HEADER_FIELDS: Final = 4
_LEAST_BUFFER_BYTES: Final = 64
# The first bytes of Hello, EnrolRequest and StagesRequest in every version: an array of up to 15
# items, the tag.
_ASKING: Final = re.compile(rb"[\x90-\x9f][\x01\x08\x41]")
_VERSION_BYTE: Final = bytes([PROTOCOL_VERSION])
_TOKEN_FORMATS: Final = {2: "H", 4: "I"}
_UNPACK_FAILURES: Final = (ValueError, TypeError, RecursionError, msgpack.UnpackException)

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded message with the cluster and epoch it was sent in."""

    cluster: str
    epoch: int
    message: Any


def encode(
    message: Any, *, cluster: str = "", epoch: int = 0, version: int = PROTOCOL_VERSION
) -> list[bytes]:
    """Returns the frames of a message.

    version: another version is only for a Refuse, which is the same in all versions. Raises
    LocalProtocolError if the message violates its schema or limits.
    """
    spec = spec_of_class(type(message))
    if spec is None:
        raise LocalProtocolError(f"{type(message).__name__} is not declared with @message")
    if not _is_header(cluster, epoch):
        raise LocalProtocolError("cluster or epoch out of bounds")
    layout = spec.layout
    width, token_frame = 0, None
    if layout.token_field is not None:
        width, token_frame = _encode_tokens(getattr(message, layout.token_field), spec)
    frame = bytes([version]) + _packed(layout, message, spec.tag, cluster, epoch, width)
    if len(frame) > spec.max_bytes:
        name = layout.cls.__name__
        raise LocalProtocolError(f"{name}: {len(frame)} bytes, at most {spec.max_bytes}")
    return [frame] if token_frame is None else [frame, token_frame]


def decode(frames: Sequence[bytes]) -> Envelope:
    """Returns the message in these frames. Raises only DecodeError or its subclass VersionError."""
    frames = unpad(frames)
    if not 1 <= len(frames) <= 2:
        raise DecodeError(f"{len(frames)} frames, expected 1 or 2")
    frame = frames[0]
    spec = _peek_spec(frame)
    layout = spec.layout
    has_tokens = layout.token_field is not None
    name = layout.cls.__name__
    # All sizes are checked before unpacking, which bounds the memory and time a peer can use up.
    if len(frames) != 1 + has_tokens:
        raise DecodeError(f"{name}: {len(frames)} frames, expected {1 + has_tokens}")
    if len(frame) > spec.max_bytes:
        raise DecodeError(f"{name}: {len(frame)} bytes, at most {spec.max_bytes}")
    if has_tokens and len(frames[1]) > 4 * spec.max_tokens:
        raise DecodeError(f"{name}: token frame of {len(frames[1])} bytes is too long")
    try:
        reader = _reader(frame[1:], layout, _NUM_HEADER_FIELDS)
        tag, cluster, epoch, width = (reader.unpack() for _ in range(_NUM_HEADER_FIELDS))
        if type(tag) is not int or tag != spec.tag or not _is_header(cluster, epoch):
            raise DecodeError(f"{name}: tag, cluster or epoch out of bounds")
        if type(width) is not int or (width in _TOKEN_FORMATS) != has_tokens:
            raise DecodeError(f"{name}: wrong token width")
        token_ids = _decode_tokens(frames[1], width, spec) if has_tokens else None
        message = layout.read(reader, token_ids)
        _check_end(reader, len(frame) - 1)
    except _UNPACK_FAILURES as error:
        raise DecodeError(f"{name}: {_reason(error)}") from error
    return Envelope(cluster, epoch, message)


def is_asking(frames: Sequence[bytes]) -> bool:
    """Returns whether a message is one that may come from who is no member, by its first bytes,
    which are the same in every version; it may be malformed all the same."""
    try:
        frames = unpad(frames)
    except DecodeError:
        return False
    return len(frames) == 1 and _ASKING.match(frames[0], 1) is not None


def encode_struct(obj: Any) -> bytes:
    """Encode a struct by itself, such as the profile in a Hello, into at most 64 KiB.

    Raises LocalProtocolError.
    """
    layout = struct_layout(type(obj))
    data = _packed(layout, obj)
    if len(data) > MAX_STRUCT_BYTES:
        raise LocalProtocolError(f"{layout.cls.__name__}: {len(data)} bytes is too long")
    return data


def _packed(layout: Layout, obj: Any, *header: int | str) -> bytes:
    """Returns the header and the checked fields. Raises LocalProtocolError."""
    try:
        data: bytes = msgpack.packb([*header, *layout.to_wire(obj)])
    except (ValueError, TypeError, OverflowError) as error:
        raise LocalProtocolError(str(error)) from error
    return data


def decode_struct(cls: type[S], data: bytes) -> S:
    """Decode the result of encode_struct. Raises only DecodeError, whatever a peer has sent."""
    layout = struct_layout(cls)
    if len(data) > MAX_STRUCT_BYTES:
        raise DecodeError(f"{cls.__name__}: {len(data)} bytes is too long")
    try:
        reader = _reader(data, layout, 0)
        obj: S = layout.read(reader)
        _check_end(reader, len(data))
    except _UNPACK_FAILURES as error:
        raise DecodeError(f"{cls.__name__}: {_reason(error)}") from error
    return obj


def _is_header(cluster: Any, epoch: Any) -> bool:
    return (
        type(cluster) is str
        and len(cluster) <= MAX_CLUSTER_CHARS
        and type(epoch) is int
        and 0 <= epoch <= INT_MAX
    )


def _peek_spec(frame: bytes) -> MessageSpec:
    """Read version and tag from the first bytes, so that limits are known before unpacking."""
    if frame[:1] != _VERSION_BYTE:
        if not frame:
            raise DecodeError("an empty frame")
        raise VersionError(frame[0], PROTOCOL_VERSION, is_asking=is_asking([frame]))
    # An array of up to 15 items has a one-byte header; a longer one has 0xdc and two bytes.
    at = 4 if frame[1:2] == b"\xdc" else 2
    tag: int | None = frame[at] if len(frame) > at else None
    if tag == 0xCC:  # uint8: tags from 128 on
        tag = frame[at + 1] if len(frame) > at + 1 else None
    spec = None if tag is None else spec_of_tag(tag)
    if spec is None:
        raise DecodeError(f"unknown message tag {tag}")
    return spec


def _reader(data: bytes, layout: Layout, num_header_fields: int) -> Reader:
    """Returns a reader positioned inside the array in data.

    Each message needs a new one, because a failure may leave a reader in a broken state.
    """
    reader = msgpack.Unpacker(
        None,
        raw=False,
        strict_map_key=True,
        # Arrays are entered only where the schema has one, so nesting costs no depth or memory.
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
        max_buffer_size=max(len(data), _LEAST_BUFFER_BYTES),
        read_size=_LEAST_BUFFER_BYTES,
    )
    reader.feed(data)
    expected = layout.num_fields + num_header_fields
    if (found := reader.read_array_header()) != expected:
        raise ValueError(f"{found} fields, expected {expected}")
    checked: Reader = reader
    return checked


def _check_end(reader: Reader, num_bytes: int) -> None:
    if reader.tell() != num_bytes:
        raise ValueError("bytes after the end")


def _encode_tokens(token_ids: Any, spec: MessageSpec) -> tuple[int, bytes]:
    name = spec.layout.cls.__name__
    if type(token_ids) is not tuple or not {int}.issuperset(map(type, token_ids)):
        raise LocalProtocolError(f"{name}: token ids must be a tuple of int")
    if len(token_ids) > spec.max_tokens:
        raise LocalProtocolError(f"{name}: {len(token_ids)} tokens, at most {spec.max_tokens}")
    width = 2 if max(token_ids, default=0) < 65536 else 4
    try:
        return width, struct.pack(f"<{len(token_ids)}{_TOKEN_FORMATS[width]}", *token_ids)
    except struct.error as error:
        raise LocalProtocolError(f"{name}: token id outside 0..2**32-1") from error


def _decode_tokens(frame: bytes, width: int, spec: MessageSpec) -> tuple[int, ...]:
    num_tokens, rest = divmod(len(frame), width)
    if rest or num_tokens > spec.max_tokens:
        raise DecodeError(f"{spec.layout.cls.__name__}: token frame of {len(frame)} bytes")
    return shared(struct.unpack(f"<{num_tokens}{_TOKEN_FORMATS[width]}", frame))


def _reason(error: Exception) -> str:
    # The text of a decoding error may quote the message, which may contain a prompt.
    return (
        str(error)
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        else type(error).__name__
    )
