from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from mesh.zmq_transport import ZmqContext
from nodes.coordinator.service import Coordinator
from nodes.gateway.config import GatewayConfig
from nodes.gateway.role import run_gateway
from policies.joint import joint_plan

Eventually = Callable[..., "asyncio.Future[None]"]


async def test_a_gateway_joins_as_one_who_asks_for_many(
    tmp_path: Path, eventually: Eventually
) -> None:
    endpoint = f"ipc://{tmp_path}/c"
    config = GatewayConfig(listen="127.0.0.1:0", connect=endpoint, keys=str(tmp_path))
    with ZmqContext() as context:
        coordinator = Coordinator(context.bind(endpoint), joint_plan)
        tasks = [
            asyncio.create_task(coordinator.run()),
            asyncio.create_task(run_gateway(config, lambda _url: None)),
        ]
        await eventually(lambda: list(coordinator.state.roles().values()) == ["gateway"])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
