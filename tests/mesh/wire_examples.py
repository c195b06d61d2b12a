"""Messages declared once for all mesh tests: a tag can be taken only once a process."""

from dataclasses import make_dataclass
from typing import Annotated, NewType

from airdraft.mesh.messages import MaxLen, Range, TokenIds, message, struct

RequestId = NewType("RequestId", str)
FROZEN = {"frozen": True, "slots": True}


def plain(**hints):
    """A class with some fields, which is neither message nor struct yet."""
    return type("Made", (), {"__annotations__": hints})


@struct
class Link:
    node: RequestId
    rate_bps: float
    points: tuple[tuple[int, ...], ...]


@message(240, max_bytes=16384, max_tokens=64)
class Everything:
    request_id: RequestId
    token_ids: TokenIds
    flag: bool
    share: Annotated[float, Range(0, 1)]
    raw: Annotated[bytes, MaxLen(8)]
    names: Annotated[tuple[Annotated[str, MaxLen(5)], ...], MaxLen(3)]
    link: Link
    links: tuple[Link, ...]
    seed: Annotated[int, Range(0, 2**64 - 1)]


@message(242, max_bytes=64)
class Small:
    raw: Annotated[bytes, MaxLen(128)] = b""


_GUESS = [*((name, int, 0) for name in "abcdefgh"), ("token_ids", TokenIds, ())]
# As long as a draft's answer, and a dataclass already.
Guess = message(241, max_tokens=64)(make_dataclass("Guess", _GUESS, **FROZEN))
# With the header, more fields than the shortest form of an array holds.
_WIDE = [(f"f{number}", int, 0) for number in range(12)]
Wide = message(243)(make_dataclass("Wide", _WIDE, **FROZEN))
