"""A mesh whose target has its model in two processes more, one of which dies in a request."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import TargetEngine
from airdraft.nodes.service.local import local_mesh
from tests.engine.kernels.tiny_models import Shape, write_model
from tests.nodes.memory_mesh import ask

pytestmark = pytest.mark.slow

LIMIT_S = 120.0
PROMPT = tuple(range(260, 290))


async def text_of(client: MeshClient, on_tokens=lambda: None) -> list[int]:
    options = GenerateOptions(max_tokens=300, temperature=1.0, seed=3, ignore_eog=True)
    (answer,) = await ask(client, options, PROMPT, on_tokens)
    return answer.token_ids


@contextlib.asynccontextmanager
async def stage(file: Path, part: str, endpoint: str) -> AsyncIterator[asyncio.subprocess.Process]:
    words = str(file), "--part", part, "--listen", endpoint, "-t", "1"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "airdraft", "stage", *words), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert endpoint in (await process.stdout.readline()).decode()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def test_a_text_goes_on_when_a_stage_was_lost_and_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    whole = tmp_path / "tiny.gguf"
    write_model(whole, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    engine = TargetEngine(model=str(whole), cells=2048, threads=1)
    async with (
        asyncio.timeout(LIMIT_S),
        local_mesh(engine, None, tell=lambda _line: None) as (_, client),
    ):
        wanted = await text_of(client)
        (node,) = (await client.status()).nodes
    endpoints = [f"ipc://{tmp_path}/{number}" for number in (1, 2)]
    engine = TargetEngine(model=str(whole), across=", ".join(endpoints), cells=2048, threads=1)
    told = list[str]()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(LIMIT_S))
        first, second = [
            await stack.enter_async_context(stage(whole, f"{number}/3", endpoint))
            for number, endpoint in enumerate(endpoints, start=1)
        ]
        mesh, client = await stack.enter_async_context(
            local_mesh(engine, None, restarts=True, tell=told.append)
        )
        (split,) = (await client.status()).nodes
        assert split.model == "tiny.gguf"
        assert split.numerics_class == node.numerics_class
        assert await text_of(client) == wanted
        begun, target = asyncio.Event(), mesh.pid("target")
        asking = asyncio.create_task(text_of(client, begun.set))
        await begun.wait()
        second.kill()
        await second.wait()
        await stack.enter_async_context(stage(whole, "2/3", endpoints[1]))
        assert await asking == wanted
        assert first.returncode is None
        assert (mesh.pid("target"), told) == (target, [])
