"""Declaring messages, and the mesh's own. docs/reference/protocol.md says what each means."""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Final, TypeVar, dataclass_transform

from mesh.errors import LocalProtocolError
from mesh.schema import TOKEN_IDS, Layout, MaxLen, Range, TokenIds, register_struct

__all__ = [
    "DISMISSED",
    "MAX_PROFILE_BYTES",
    "NOT_ALLOWED",
    "OTHER_PROTOCOL",
    "PROTOCOL_VERSION",
    "TOKEN_IDS",
    "UNSUITABLE",
    "Bye",
    "Credit",
    "EnrolReply",
    "EnrolRequest",
    "Hello",
    "KeyNotice",
    "MaxLen",
    "MessageSpec",
    "Ping",
    "Pong",
    "Range",
    "Refuse",
    "TokenIds",
    "Welcome",
    "message",
    "spec_of_class",
    "spec_of_tag",
    "struct",
]

PROTOCOL_VERSION: Final = 3
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
    """Register a class as the message with this tag, for ever.

    The class is made a frozen, slotted dataclass unless it already is one.
    max_bytes: limit of frame 0. max_tokens: limit of the TokenIds field, if there is one.
    Raises LocalProtocolError when the tag or the class is taken, or a field cannot travel.
    """

    def register(cls: type[T]) -> type[T]:
        cls = _as_dataclass(cls)
        if not 1 <= tag <= MAX_TAG:
            raise LocalProtocolError(f"{cls.__name__}: tag {tag} outside 1..{MAX_TAG}")
        if tag in _specs_by_tag:
            taken_by = _specs_by_tag[tag].layout.cls.__name__
            raise LocalProtocolError(f"{cls.__name__}: tag {tag} belongs to {taken_by}")
        if cls in _specs_by_class:
            raise LocalProtocolError(f"{cls.__name__} already has a tag")
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
    """Let a class be a field of messages and structs; made a frozen, slotted dataclass."""
    cls = _as_dataclass(cls)
    register_struct(cls)
    return cls


def _as_dataclass(cls: type[T]) -> type[T]:
    # Looked up in the class itself: a base that is a dataclass does not make this one.
    if "__dataclass_fields__" not in vars(cls):
        cls = dataclass(frozen=True, slots=True)(cls)
    params: Any = vars(cls).get("__dataclass_params__")
    if not is_dataclass(cls) or not params.frozen or "__slots__" not in vars(cls):
        raise LocalProtocolError(f"{cls.__name__} must be a frozen, slotted dataclass")
    return cls


Count = Annotated[int, Range(0, 2**63 - 1)]
Seconds = Annotated[float, Range(0, 86_400)]
Name = Annotated[str, MaxLen(64)]
Reason = Annotated[str, MaxLen(256)]


@message(1, max_bytes=MAX_PROFILE_BYTES + 1024)
class Hello:
    """A node asks to join. incarnation: random, drawn once per process start.

    profile: the role's own description, as encoded by codec.encode_struct.
    """

    node: Name
    role: Name
    incarnation: Count
    protocol: Count
    profile: Annotated[bytes, MaxLen(MAX_PROFILE_BYTES)]


@message(2)
class Welcome:
    """The node is in; how often the coordinator sends a Ping, how long both sides bear silence.

    pads: whether both sides send messages of a few sizes only.
    """

    node: Name
    cluster: Name
    epoch: Count
    heartbeat_interval_s: Seconds
    heartbeat_timeout_s: Seconds
    pads: bool


# Codes of Refuse, for who is not let in however often it asks: the process speaks another protocol;
# its key does not let it; what it brings does not fit; an operator told it to leave.
OTHER_PROTOCOL: Final = "protocol"
NOT_ALLOWED: Final = "not_allowed"
UNSUITABLE: Final = "unsuitable"
DISMISSED: Final = "dismissed"


@message(3)
class Refuse:
    """The node is not let in. Every version of the protocol has this message as it is here.

    code: one of the above, or "".
    """

    reason: Reason
    code: Annotated[str, MaxLen(32)] = ""


@message(4)
class Ping:
    """Sent from the event loop; progress counts the sender's finished pieces of work."""

    seq: Count
    progress: Count


@message(5)
class Pong:
    """Answers the Ping of the same seq with this side's own progress."""

    seq: Count
    progress: Count


@message(6)
class Credit:
    """The receiver may send this many more messages."""

    num_messages: Count


@message(7)
class Bye:
    """The sender leaves; nothing follows."""

    reason: Reason


@message(8)
class EnrolRequest:
    """Who was invited brings its own public key; who has one already, the next one."""

    public_key: Annotated[str, MaxLen(40)]
    name: Name


@message(9)
class EnrolReply:
    """error: "" if the key is authorized from now on, under this name and for these roles."""

    error: Reason
    name: Name
    roles: Annotated[tuple[Name, ...], MaxLen(8)]


@message(10)
class KeyNotice:
    """The coordinator's public key will be this one; "" if the present one stays."""

    next_key: Annotated[str, MaxLen(40)]
