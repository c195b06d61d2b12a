"""The parts of the search: what each sends, how fast, and to what it is compared.

Whoever attacks runs in a process of its own, so that it does not delay the clocks of the user.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from random import Random
from typing import Final, Protocol

from airdraft.nodes.catalog import DEFAULT_TARGET
from bench.hostile import bodies, byte_streams, grammars, members
from bench.hostile.items import Item, Outcome, discard, paced, send

# One number in so many is one of the fixed items, in turn; the others are generated.
_FIXED_EVERY: Final = 8
_PART_BYTES: Final = 1 << 20


class Against(Enum):
    """What a phase of a part sends."""

    HOSTILE = "hostile"
    ORDINARY = "as many ordinary requests"
    DISCARDED = "the same bytes, sent to a listener that discards them"


class _Drawing(Protocol):
    def item(self) -> Item: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A kind of attack. count: items unless told otherwise. per_s, at_once: how many are begun in
    a second, and are under way at most. limit_s: time for one of them."""

    what: str
    count: int
    model: str = "toy:1@20ms"
    per_s: float = members.PER_S
    at_once: int = 1
    limit_s: float = 0.0
    beside: Against = Against.ORDINARY
    draw: Callable[[Random, str], _Drawing] | None = None
    fixed: Callable[[str], Sequence[Item]] = byte_streams.fixed
    ordinary: Callable[[str], Item] = byte_streams.ordinary


_STREAMS: Final = Part(
    what="byte streams without a key",
    count=1_000,
    per_s=20.0,
    at_once=8,
    limit_s=2.0,
    beside=Against.DISCARDED,
    draw=byte_streams.ByteStreams,
)
PARTS: Final[Mapping[str, Part]] = {
    "strangers": _STREAMS,
    "http": replace(_STREAMS, what="byte streams with a key", beside=Against.ORDINARY),
    "grammars": Part(
        what="grammars and schemas",
        count=500,
        model=DEFAULT_TARGET,
        per_s=5.0,
        at_once=2,
        limit_s=6.0,
        draw=grammars.Grammars,
        fixed=grammars.fixed,
        ordinary=grammars.ordinary,
    ),
    "bodies": Part(
        what="bodies at limits",
        count=500,
        per_s=5.0,
        at_once=4,
        limit_s=5.0,
        draw=bodies.Bodies,
        fixed=bodies.fixed,
        ordinary=bodies.ordinary,
    ),
    "frames": Part(what="messages of members", count=20_000),
}


@dataclass(frozen=True, slots=True)
class Where:
    """Whom an attack reaches. key: of the API; "" for a stranger. folder: of the members' keys."""

    port: int
    key: str
    endpoint: str
    folder: Path
    discard_port: int


def made(part: Part, seed: int, number: int, key: str) -> Item:
    """Returns an item by its number; the same for the same seed."""
    assert part.draw is not None
    if number % _FIXED_EVERY == 0:
        fixed = part.fixed(key)
        return fixed[number // _FIXED_EVERY % len(fixed)]
    return part.draw(Random(f"{seed} {number}"), key).item()


def attack(
    name: str,
    against: Against,
    where: Where,
    seed: int,
    numbers: Sequence[int],
    twins: Sequence[Outcome] = (),
) -> list[Outcome]:
    """Send what the numbers stand for, or what is compared to it, and return what became of it.

    twins: the hostile outcomes, for what is discarded.
    """
    # Members that are thrown out say so, which is what is expected of them.
    logging.disable(logging.WARNING)
    part, is_ordinary = PARTS[name], against is Against.ORDINARY
    if part.draw is None:
        work = members.attack(where.endpoint, where.folder, seed, numbers, is_ordinary=is_ordinary)
        return asyncio.run(work)
    return asyncio.run(_over_http(part, against, where, seed, numbers, twins))


async def _over_http(
    part: Part,
    against: Against,
    where: Where,
    seed: int,
    numbers: Sequence[int],
    twins: Sequence[Outcome],
) -> list[Outcome]:
    outcomes: list[Outcome] = []

    async def one(index: int) -> None:
        number = numbers[index]
        if against is Against.ORDINARY:
            item = part.ordinary(where.key)
        else:
            item = made(part, seed, number, where.key)
        if against is Against.DISCARDED:
            await discard(item, where.discard_port, twins[index])
        else:
            outcomes.append(await send(number, item, where.port, part.limit_s))

    await paced(range(len(numbers)), one, part.per_s, part.at_once)
    return outcomes


def listen(send_port: Callable[[int], None]) -> None:
    """Discard all that comes to a port of this machine, until this process is ended."""

    class Deaf(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self._buffer = bytearray(_PART_BYTES)

        def get_buffer(self, _size: int) -> bytearray:
            return self._buffer

        def buffer_updated(self, _size: int) -> None: ...

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Deaf, "127.0.0.1", 0)
        send_port(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())
