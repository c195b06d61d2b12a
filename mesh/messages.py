"""Declares messages, and the mesh's own ones. docs/reference/protocol.md describes each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar, dataclass_transform

from airdraft.mesh.errors import LocalProtocolError
from airdraft.mesh.schema import TOKEN_IDS as TOKEN_IDS
from airdraft.mesh.schema import Layout, register_struct
from airdraft.mesh.schema import MaxLen as MaxLen
from airdraft.mesh.schema import Range as Range
from airdraft.mesh.schema import TokenIds as TokenIds

PROTOCOL_VERSION: Final = 6
MAX_TAG: Final = 255
MAX_MESSAGE_BYTES: Final = 2**20
MAX_PROFILE_BYTES: Final = 65536

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """A registered message class with its tag and its limits."""

    tag: int
    layout: Layout
    max_bytes: int
    max_tokens: int


_specs_by_tag: dict[int, MessageSpec] = {}
_specs_by_class: dict[type, MessageSpec] = {}
spec_of_tag = _specs_by_tag.get
spec_of_class = _specs_by_class.get


@dataclass_transform(frozen_default=True)
def message(tag: int, max_bytes: int = 4096, max_tokens: int = 0) -> Callable[[type[T]], type[T]]:
    """Register a class as the message with this tag. Tags are never reused.

    The class becomes a frozen, slotted dataclass unless it already is one.
    max_bytes: limit of frame 0. max_tokens: limit of the TokenIds field, if there is one.
    Raises LocalProtocolError if the tag is registered already, or a field has a type that cannot be
    sent.
    """

    def register(cls: type[T]) -> type[T]:
        cls = _as_dataclass(cls)
        if not 1 <= tag <= MAX_TAG:
            raise LocalProtocolError(f"{cls.__name__}: tag {tag} outside 1..{MAX_TAG}")
        if tag in _specs_by_tag:
            taken_by = _specs_by_tag[tag].layout.cls.__name__
            raise LocalProtocolError(f"{cls.__name__}: tag {tag} belongs to {taken_by}")
        layout = Layout(cls)
        if (layout.token_field is not None) != (max_tokens > 0):
            raise LocalProtocolError(f"{cls.__name__}: max_tokens and a TokenIds field go together")
        if max(max_bytes, 4 * max_tokens) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(
                f"{cls.__name__}: a frame is at most {MAX_MESSAGE_BYTES} bytes"
            )
        spec = MessageSpec(tag, layout, max_bytes, max_tokens)
        _specs_by_tag[tag] = _specs_by_class[cls] = spec
        return cls

    return register


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
    """Register a class as a field type of messages and structs.

    It becomes a frozen, slotted dataclass.
    """
    cls = _as_dataclass(cls)
    register_struct(cls)
    return cls


def _as_dataclass(cls: type[T]) -> type[T]:
    # Look in the class itself, because a dataclass as its base does not make it a dataclass.
    is_one = "__dataclass_fields__" in vars(cls)
    return cls if is_one else dataclass(frozen=True, slots=True)(cls)


Count = Annotated[int, Range(0, 2**63 - 1)]
Seconds = Annotated[float, Range(0, 86_400)]
Name = Annotated[str, MaxLen(64)]
Reason = Annotated[str, MaxLen(256)]


@message(1, max_bytes=MAX_PROFILE_BYTES + 1024)
class Hello:
    """A node or client requests to join. incarnation: random, drawn once per process start.

    profile: the role's own description, encoded by codec.encode_struct.
    """

    node: Name
    role: Name
    incarnation: Count
    protocol: Count
    profile: Annotated[bytes, MaxLen(MAX_PROFILE_BYTES)]


@message(2)
class Welcome:
    """The node is a member. heartbeat_timeout_s: silence that either side tolerates.

    heartbeat_interval_s: interval of the coordinator's Pings. pads: whether both sides pad messages
    to a few sizes.
    """

    node: Name
    cluster: Name
    epoch: Count
    heartbeat_interval_s: Seconds
    heartbeat_timeout_s: Seconds
    pads: bool


# Codes of Refuse that make retrying useless: another protocol version, a key without the right, a
# process whose name a later one has, and a process that an operator dismissed.
OTHER_PROTOCOL: Final = "protocol"
NOT_ALLOWED: Final = "not_allowed"
UNSUITABLE: Final = "unsuitable"
DISMISSED: Final = "dismissed"


@message(3)
class Refuse:
    """The node may not join. This message is the same in every version of the protocol.

    code: one of the above, or "".
    """

    reason: Reason
    code: Annotated[str, MaxLen(32)] = ""


@message(4)
class Ping:
    """A heartbeat of the event loop. progress: the sender's finished pieces of work."""

    seq: Count
    progress: Count


@message(5)
class Pong:
    """Answers the Ping of the same seq. progress: the answering side's finished pieces of work."""

    seq: Count
    progress: Count


@message(6)
class Credit:
    """The receiver of this message may send num_messages more."""

    num_messages: Count


@message(7)
class Bye:
    """The sender leaves and sends nothing more."""

    reason: Reason


@message(8)
class EnrolRequest:
    """Sends a public key to authorize: an invited machine's own, or a member's next one."""

    public_key: Annotated[str, MaxLen(40)]
    name: Name


@message(9)
class EnrolReply:
    """error: "" if the key is authorized from now on, under this name and in these roles."""

    error: Reason
    name: Name
    roles: Annotated[tuple[Name, ...], MaxLen(8)]
