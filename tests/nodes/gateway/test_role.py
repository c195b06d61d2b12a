from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from nodes.config.settings import LinkSettings
from nodes.gateway.config import GatewayConfig
from nodes.gateway.role import run_gateway
from tests.nodes.api.toy_mesh import toy_mesh
from tests.nodes.gateway.fake_mesh import Eventually


async def test_a_gateway_joins_as_one_who_asks_for_many(
    tmp_path: Path, eventually: Eventually
) -> None:
    """On a shared medium it sends long requests in pieces; they are answered as any other."""
    link = LinkSettings(air="cell-a", rate_kbps=400)
    asked = {"prompt": "a long text " * 250, "max_tokens": 2}
    urls: list[str] = []
    with toy_mesh() as mesh:
        config = GatewayConfig(
            listen="127.0.0.1:0", connect=mesh.endpoint, keys=str(tmp_path), link=link
        )
        running = asyncio.create_task(run_gateway(config, urls.append))
        await eventually(
            lambda: urls and "gateway" in mesh.coordinator.state.roster.roles().values()
        )
        async with httpx.AsyncClient(base_url=urls[0], timeout=60) as http:
            answer = await http.post("/completions", json=asked)
        assert answer.json()["usage"]["completion_tokens"] == 2
        # Some 3 kB at 50 kB/s, 20 ms each.
        assert await mesh.num_received("UploadPiece") >= 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
