"""How large bodies are read. What is wrong in small ones is in the tests of each API."""

import asyncio
import threading

import pytest

from airdraft.nodes.gateway.bodies import BodyReader
from tests.nodes.gateway.calls import COMPLETIONS, app_of, post
from tests.nodes.gateway.fake_mesh import FakeMesh


async def test_a_large_body_is_read_beside_others() -> None:
    reader, is_set = BodyReader(), threading.Event()

    def work() -> bool:
        return is_set.wait(60)

    large = asyncio.create_task(reader.run(1 << 20, work))
    assert await reader.run(1000, lambda: "small") == "small"
    is_set.set()
    assert await large


@pytest.mark.parametrize("filling", ['{"a": 1}', "[]", "1,2"])
async def test_a_body_of_very_many_values_is_refused_while_it_comes(filling: str) -> None:
    many = f'{{"prompt": "hi", "x": [{",".join([filling] * 400_000)}]}}'
    mesh = FakeMesh()
    found = await post(app_of(mesh, max_body_bytes=1 << 26), COMPLETIONS, many.encode())
    assert (found.status, found.json["error"]["code"]) == (400, "body_too_complex")
    assert mesh.asked == []
