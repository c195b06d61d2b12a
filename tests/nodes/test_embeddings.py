"""A target of embeddings in a mesh with one of text: each does its own, and drafts are for text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.embedding import EmbeddingModel
from airdraft.nodes.engine.toy import ToyTokenizer
from airdraft.nodes.messages import EMBEDDING, TEXT, TOKENS
from airdraft.nodes.target.embedding import EmbeddingNode
from tests.engine.kernels.tiny_models import SHAPES, write_model
from tests.nodes.memory_mesh import PROMPT, Members, ask, mesh

OPTIONS = GenerateOptions(chat=False)


@pytest.mark.slow
async def test_vectors_and_texts_come_from_their_own_targets(tmp_path: Path) -> None:
    path = tmp_path / "tiny-embed.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0", pooling=1)
    model = EmbeddingModel(path, max_tokens=64)
    async with mesh(0.8) as made:
        client = await made.join()
        with pytest.raises(RequestFailedError, match="no target serves an embedding model"):
            await client.read("word1", OPTIONS, EMBEDDING)
        _start(made, model)
        await made.wait_for(client, {"target", "draft-0", "embedder"})
        found = await asyncio.gather(*(client.read("word1", OPTIONS, EMBEDDING) for _ in range(9)))
        expected = model.embed(model.vocabulary.encode("word1"))
        for notice in found:
            assert np.array_equal(np.frombuffer(notice.embedding, "<f4"), expected)
            assert notice.model == "tiny-embed.gguf"
        with pytest.raises(RequestFailedError, match="64 at most"):
            await client.read("a" * 300, OPTIONS, EMBEDDING)
        ids = ToyTokenizer(made.config.num_vocab).encode(PROMPT)
        assert (await client.read(PROMPT, OPTIONS, TOKENS)).prompt_token_ids == tuple(ids)
        text = (await client.read(tuple(ids), OPTIONS, TEXT)).text
        assert text == b"".join(map(ToyTokenizer(made.config.num_vocab).piece, ids))
        (answer,) = await ask(client, GenerateOptions(chat=False, max_tokens=9))
        assert len(answer.token_ids) == 9
    model.close()


def _start(made: Members, model: EmbeddingModel) -> None:
    node = EmbeddingNode(made.connect("embedder"), model, endpoint="memory", node="embedder")
    made.tasks["embedder"] = asyncio.create_task(node.run())
