"""Messages declared once for all mesh tests: a tag can be taken only once a process."""

from dataclasses import dataclass, make_dataclass
from typing import Annotated, NewType

from mesh.messages import MaxLen, Range, TokenIds, message, struct

RequestId = NewType("RequestId", str)


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


@message(241, max_tokens=64)
@dataclass(frozen=True, slots=True)
class Guess:
    """As long as a draft's answer, and a dataclass already."""

    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    e: int = 0
    f: int = 0
    g: int = 0
    h: int = 0
    token_ids: TokenIds = ()


@message(242, max_bytes=64)
class Small:
    raw: Annotated[bytes, MaxLen(128)] = b""


# With the header, more fields than the shortest form of an array holds.
Wide = message(243)(
    make_dataclass(
        "Wide", [(f"f{number}", int, 0) for number in range(12)], frozen=True, slots=True
    )
)
