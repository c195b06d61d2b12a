from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx

from mesh.zmq_transport import ZmqContext
from nodes.config.settings import LinkSettings
from nodes.coordinator.service import Coordinator
from nodes.gateway.config import GatewayConfig
from nodes.gateway.role import run_gateway
from tests.nodes.api.toy_mesh import toy_mesh

Eventually = Callable[..., "asyncio.Future[None]"]


def num_pieces(coordinator: Coordinator) -> int:
    """Pieces of uploads that it has received."""
    seen = coordinator.state._reporting.traffic.totals()
    return sum(total.num_messages for total in seen if total.kind == "UploadPiece")


async def test_a_gateway_on_a_shared_medium_sends_long_requests_in_pieces(
    tmp_path: Path, eventually: Eventually
) -> None:
    """Each when it may go; the text is answered as any other."""
    link = LinkSettings(air="cell-a", rate_kbps=400)
    asked = {"prompt": "a long text " * 250, "max_tokens": 2}
    urls: list[str] = []
    with toy_mesh() as mesh:
        config = GatewayConfig(
            listen="127.0.0.1:0", connect=mesh.endpoint, keys=str(tmp_path), link=link
        )
        running = asyncio.create_task(run_gateway(config, urls.append))
        await eventually(lambda: urls and "gateway" in mesh.coordinator.state.roles().values())
        async with httpx.AsyncClient(base_url=urls[0], timeout=60) as http:
            answer = await http.post("/completions", json=asked)
        assert answer.json()["usage"]["completion_tokens"] == 2
        # Some 3 kB at 50 kB/s, 20 ms each.
        assert num_pieces(mesh.coordinator) >= 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_gateway_joins_as_one_who_asks_for_many(
    tmp_path: Path, eventually: Eventually
) -> None:
    endpoint = f"ipc://{tmp_path}/c"
    config = GatewayConfig(listen="127.0.0.1:0", connect=endpoint, keys=str(tmp_path))
    with ZmqContext() as context:
        coordinator = Coordinator(context.bind(endpoint))
        tasks = [
            asyncio.create_task(coordinator.run()),
            asyncio.create_task(run_gateway(config, lambda _url: None)),
        ]
        await eventually(lambda: list(coordinator.state.roles().values()) == ["gateway"])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
