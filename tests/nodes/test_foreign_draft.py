"""A draft of another vocabulary in a mesh: its guesses come, and the text is the target's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from airdraft.nodes.catalog import DEFAULT_TARGET
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig, DraftEngine, EngineSettings
from airdraft.nodes.service.local import local_mesh
from tests.engine.kernels.tiny_models import SHAPES, write_model
from tests.engine.llama_texts import needs_model
from tests.nodes.memory_mesh import ask

# So many that a draft node has time to read the text and guess some.
_NUM_TOKENS = 400
_PROMPT = "One, two: été"


async def _answer(client: MeshClient, temperature: float, gamma: int | None) -> bytes:
    options = GenerateOptions(
        max_tokens=_NUM_TOKENS,
        temperature=temperature,
        seed=5,
        gamma=gamma,
        chat=False,
        ignore_eog=True,
    )
    (answer,) = await ask(client, options, _PROMPT)
    return answer.text


async def _num_compared(client: MeshClient) -> int:
    """Guesses that the target has compared with its text."""
    (target,) = (await client.status()).targets
    return target.counts.num_compared


@needs_model
@pytest.mark.slow
async def test_texts_are_those_of_the_target_alone(tmp_path: Path) -> None:
    """Random weights that spell bytes, and a draft that knows words: most guesses are wrong."""
    path = tmp_path / "bytes.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0")
    target = EngineSettings(model=str(path), cells=1024, threads=1)
    draft = DraftEngine(
        model=DEFAULT_TARGET, cells=2048, threads=1, profile="fast", vocabulary=str(path)
    )
    async with (
        local_mesh(target, draft, config=CoordinatorConfig(prompt_lookup=False)) as (mesh, client),
        asyncio.timeout(120),
    ):
        for temperature in (0.0, 0.8):
            gammas = (0, 4, None)
            texts = [await mesh.beside(_answer(client, temperature, gamma)) for gamma in gammas]
            assert texts[0] == texts[1] == texts[2]
        # The target is quicker: guesses come when they do, most of them too late to be verified.
        while not await _num_compared(client):
            assert await mesh.beside(_answer(client, temperature, 4)) == texts[0]
