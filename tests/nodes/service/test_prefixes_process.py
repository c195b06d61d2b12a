"""A mesh that was started again goes on with the long text that it had read before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import TargetEngine
from airdraft.nodes.messages.access import GATEWAY
from airdraft.nodes.service.local import local_mesh
from tests.engine.kernels.tiny_models import Shape, write_model
from tests.nodes.memory_mesh import ask

pytestmark = pytest.mark.slow

LIMIT_S = 120.0
PROMPT = tuple(range(260, 290)) * 40


def files(cache: Path) -> list[Path]:
    return list(cache.glob("prefixes/*/*.prefix"))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def text_of(engine: TargetEngine, wait: Callable[[], object]) -> list[int]:
    """What a mesh of its own makes of the prompt. wait: what it lasts for."""
    local = local_mesh(engine, None, role=GATEWAY, tell=lambda _line: None)
    async with asyncio.timeout(LIMIT_S), local as (_, client):
        options = GenerateOptions(max_tokens=40, temperature=1.0, seed=3, ignore_eog=True)
        (answer,) = await ask(client, options, PROMPT, lambda: None)
        waiting = wait()
        if isinstance(waiting, Awaitable):
            await waiting
        return answer.token_ids


async def test_a_long_text_is_there_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[None]]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("AIRDRAFT_CACHE", str(cache))
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    whole = tmp_path / "tiny.gguf"
    write_model(whole, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0")
    engine = TargetEngine(model=str(whole), cells=4096, threads=1)
    first = await text_of(engine, lambda: eventually(lambda: files(cache), LIMIT_S))
    (file,) = files(cache)
    before = os.stat(file)
    assert mode(cache / "prefixes") == mode(file.parent) == 0o700
    assert await text_of(engine, lambda: None) == first
    # It was read, and not written again.
    after = os.stat(file)
    assert after.st_ino == before.st_ino
    assert after.st_mtime > before.st_mtime
