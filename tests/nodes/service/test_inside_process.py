"""A target with the default draft in its process dies in one of the draft's steps."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, default_cache_dir
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import TargetEngine
from airdraft.nodes.service.local import local_mesh
from tests.nodes.memory_mesh import ask

pytestmark = [pytest.mark.model, pytest.mark.slow]

LIMIT_S = 240.0


def is_at_work(folder: Path) -> bool:
    return any(mark.read_bytes()[:1] == b"\1" for mark in folder.glob("*.mark"))


async def until_kill_in_a_step(pid: int, folder: Path) -> None:
    """Stop the process again and again, until it is in a step of its draft, and kill it there."""
    while True:
        await asyncio.sleep(0.002)
        os.kill(pid, signal.SIGSTOP)
        if is_at_work(folder):
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGCONT)


async def text_of(client: MeshClient) -> bytes:
    # With a fixed number of guesses the draft makes its steps even where they do not pay.
    options = GenerateOptions(max_tokens=400, gamma=2, seed=3, ignore_eog=True)
    (answer,) = await ask(client, options)
    return answer.text


async def until_it_says(client: MeshClient, text: str) -> None:
    why = ""
    while text not in why:
        await asyncio.sleep(0.05)
        why = next((node.draft_why for node in (await client.status()).nodes), "")


async def test_it_comes_back_without_the_draft_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models = default_cache_dir(os.environ) / "models"
    (tmp_path / "models").symlink_to(models)
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path))
    target = TargetEngine(model=DEFAULT_TARGET, draft=DEFAULT_DRAFT, cells=2048)
    folder = tmp_path / "inside"

    async with (
        asyncio.timeout(LIMIT_S),
        local_mesh(target, None, restarts=True, tell=lambda _line: None) as (mesh, client),
    ):
        plain = await text_of(client)
        await until_it_says(client, "guesses in turns")
        asking = asyncio.create_task(text_of(client))
        await until_kill_in_a_step(mesh.pid("target"), folder)
        assert await asking == plain
        await until_it_says(client, "left out")
        assert await text_of(client) == plain
    (record,) = folder.glob("*.json")
    lines = [line for line in caplog.messages if "left out" in line]
    assert len(lines) == 1
    assert f"remove {record}" in lines[0]
