import asyncio
import json
from collections.abc import Iterator

import pytest
from starlette.requests import ClientDisconnect

from airdraft.nodes.gateway.sending import JsonInPieces
from tests.nodes.gateway.calls import Call
from tests.nodes.gateway.fake_mesh import Eventually


def pieces(num: int) -> Iterator[bytes]:
    yield b'{"a":["'
    for _ in range(num):
        yield b"x" * 1000
    yield b'"]}'


@pytest.mark.parametrize("num", [0, 10, 1000])
async def test_the_document_is_whole_whatever_its_size(num: int) -> None:
    found = Call(JsonInPieces(pieces(num), {"x-request-id": "r"}), "GET", "/")
    await found.run()
    assert (found.status, found.headers["content-type"]) == (200, "application/json")
    assert found.headers["x-request-id"] == "r"
    assert ("content-length" in found.headers) == (num < 60)
    assert json.loads(b"".join(found.parts)) == {"a": ["x" * 1000 * num]}
    assert found.is_complete


async def test_others_have_their_turns_between_pieces() -> None:
    num_turns, found = 0, Call(JsonInPieces(pieces(1000), {}), "GET", "/")
    running = found.start()
    while not running.done():
        num_turns += 1
        await asyncio.sleep(0)
    assert num_turns > 1000


async def test_nothing_more_is_made_for_who_has_left(eventually: Eventually) -> None:
    num_made = 0

    def endless() -> Iterator[bytes]:
        nonlocal num_made
        while True:
            num_made += 1
            yield b"x" * 1000

    found = Call(JsonInPieces(endless(), {}), "GET", "/")
    running = found.start()
    await eventually(lambda: len(found.parts) > 2)
    found.leave()
    with pytest.raises(ClientDisconnect):
        await running
    assert num_made < 1_000_000
