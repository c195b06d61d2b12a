"""A whole mesh in one process: every text and score is what it would be alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.protocol import Logits, Span
from nodes.engine.toy import ToyModel, ToyTokenizer
from nodes.messages import APART, ChatMessage
from tests.nodes.memory_mesh import PROMPT, ask, check, mesh, status_once


async def test_many_requests_of_two_clients_become_what_they_would_alone() -> None:
    toy = {"eog_rate": 0.01}
    async with mesh(0.8, 0.5, **toy) as made:
        clients = [await made.join(), await made.join("gateway")]
        requests = [
            (PROMPT, GenerateOptions(max_tokens=60, gamma=4)),
            ("a" * 300, GenerateOptions(max_tokens=40, temperature=0.9, top_p=0.9, seed=3)),
            ((7, 8, 9), GenerateOptions(max_tokens=50, temperature=1.0, seed=4, num_choices=3)),
            ("x", GenerateOptions(max_tokens=80, gamma=0, ignore_eog=True)),
            ("stop", GenerateOptions(max_tokens=90, gamma=8, stops=("42", " 7"), seed=1)),
            ("one", GenerateOptions(max_tokens=1, gamma=8)),
        ]
        jobs = [
            ask(clients[index % 2], options, prompt)
            for index, (prompt, options) in enumerate(requests)
        ]
        for (prompt, options), answers in zip(requests, await asyncio.gather(*jobs), strict=True):
            check(answers, options, prompt, **toy)
        assert made.is_empty()


async def test_a_gateway_asks_for_its_users_with_conversations_and_by_model() -> None:
    async with mesh(0.8) as made:
        client = await made.join("gateway")
        messages = (
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "Why?"),
            ChatMessage("assistant", "So."),
            ChatMessage("user", "Oh."),
        )
        pairs = [(message.role, message.content) for message in messages]
        ids = tuple(ToyTokenizer(made.config.num_vocab).encode_chat(pairs))
        for user in ("ann", "bob"):
            options = GenerateOptions(max_tokens=12, user=user, model=made.model.info.model)
            check(await ask(client, options, messages), options, ids)
        with pytest.raises(RequestFailedError, match="present models: toy-1") as caught:
            await ask(client, GenerateOptions(model="other"), messages)
        assert caught.value.code == "not_found"


async def test_streams_that_outgrow_the_cache_are_parked_and_end_as_they_would_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with mesh(0.8, num_cells=500, max_sequences=4) as made:
        restored: list[int] = []
        restore = made.model.restore
        monkeypatch.setattr(made.model, "restore", lambda *a: (restored.append(a[2]), restore(*a)))
        client = await made.join()
        options = GenerateOptions(max_tokens=300, num_choices=5, seed=1, temperature=1.0)
        check(await ask(client, options), options, PROMPT)
        # Four of 300 tokens are more than the cache holds: some came back from host memory.
        assert restored
        assert made.is_empty()


async def test_guesses_save_passes_and_are_counted() -> None:
    # Slow enough for the draft node to have read the text before much of it is there.
    async with mesh(1.0, pass_s=0.01) as made:
        client = await made.join()
        options = GenerateOptions(max_tokens=200, gamma=7)
        (answer,) = await ask(client, options)
        check([answer], options, PROMPT)
        figures = answer.figures
        assert figures is not None
        assert figures.num_accepted_tokens == figures.num_draft_tokens > 100
        assert made.model.num_forward_passes < 120
        assert figures.draft_wire_bytes > 0
        assert figures.target_wire_bytes > 0
        assert figures.plain_reason == ""
        status = await status_once(client, lambda status: status.totals.requests["done"] > 0)
        assert {node.name for node in status.nodes} == {"target", "draft-0"}
        (target,) = status.targets
        assert sum(target.counts.tokens.values()) == 200
        assert status.streams == ()
        assert {wire.direction for wire in status.totals.wire} == {"in", "out"}


class OtherBits(ToyModel):
    """It says that it is of the toy's class, and is not."""

    def forward(self, spans: Sequence[Span]) -> Logits:
        rows = super().forward(spans)
        rows[:, 3:] += np.float32(1 / 512)
        return rows


async def test_a_target_that_computes_other_bits_is_told_apart() -> None:
    async with mesh() as made:
        client = await made.join()
        # The first answer of the class is there when a request is served.
        await ask(client, GenerateOptions(max_tokens=4))
        made.start_target("liar", OtherBits(made.config))
        made.start_target("twin", ToyModel(made.config))
        nodes: dict[str, bool] = {}
        async with asyncio.timeout(60):
            while not (len(nodes) == 3 and nodes["liar"]):
                await asyncio.sleep(0.005)
                found = (await client.nodes()).nodes
                nodes = {node.node: APART in node.numerics_class for node in found}
        assert nodes == {"target": False, "liar": True, "twin": False}
