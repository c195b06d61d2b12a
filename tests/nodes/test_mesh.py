"""A whole mesh in one process: every text and score is what it would be alone."""

from __future__ import annotations

import asyncio

import pytest

from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.rules import Grammar, LogitBias, LogitRules
from nodes.engine.toy import ToyTokenizer
from nodes.messages import ChatMessage, PromptLogprobsNotice, TokensNotice
from tests.nodes.memory_mesh import PROMPT, ask, check, expected, mesh


async def test_a_client_is_told_what_the_mesh_does() -> None:
    async with mesh(0.8) as members:
        client = members.start_client("client")
        await members.wait_for(client, {"target", "draft-0"})
        await ask(client, GenerateOptions(max_tokens=20, seed=1))
        # The document is at most half a second old.
        status = await client.status()
        while not status.totals.requests["done"]:
            await asyncio.sleep(0.02)
            status = await client.status()
        assert {node.name for node in status.nodes} == {"target", "draft-0"}
        (target,) = status.targets
        assert sum(target.counts.tokens.values()) == 20
        assert status.streams == ()
        assert {wire.direction for wire in status.totals.wire} == {"in", "out"}


async def test_many_requests_of_two_clients_become_what_they_would_alone() -> None:
    toy = {"eog_rate": 0.01}
    async with mesh(0.8, 0.5, **toy) as made:
        clients = [made.start_client("client-0"), made.start_client("client-1")]
        await made.wait_for(clients[0], {"target", "draft-0", "draft-1"})
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
        assert made.model.free_cells() == made.config.num_cells


async def test_more_streams_than_sequences_are_served_one_after_the_other() -> None:
    async with mesh(0.8, max_sequences=2) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        options = GenerateOptions(max_tokens=30, gamma=4, num_choices=8, seed=1, temperature=1.0)
        check(await ask(client, options), options, PROMPT)


async def test_a_gateway_asks_for_its_users_with_conversations_and_by_model() -> None:
    async with mesh(0.8) as made:
        client = made.start_client("gateway", role="gateway")
        await made.wait_for(client, {"target", "draft-0"})
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
    async with mesh(0.8, num_cells=500) as made:
        restored: list[int] = []
        restore = made.model.restore
        monkeypatch.setattr(made.model, "restore", lambda *a: (restored.append(a[2]), restore(*a)))
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        options = GenerateOptions(max_tokens=300, num_choices=4, seed=1, temperature=1.0)
        check(await ask(client, options), options, PROMPT)
        # Four of 300 tokens are more than the cache holds: some came back from host memory.
        assert restored
        assert made.model.free_cells() == made.config.num_cells


async def test_guesses_save_passes_and_are_counted() -> None:
    # Slow enough for the draft node to have read the text before much of it is there.
    async with mesh(1.0, pass_s=0.01) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
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


async def test_rules_and_scores_are_as_they_would_be_alone() -> None:
    rules = LogitRules((LogitBias(2, 1.0),), 0.5, 0.1, Grammar("gbnf", 'root ::= (" " [0-9]+)+'))
    options = GenerateOptions(
        max_tokens=40,
        temperature=1.0,
        seed=2,
        gamma=4,
        num_choices=2,
        rules=rules,
        num_logprobs=2,
        scores_prompt=True,
    )
    async with mesh(0.9, pass_s=0.02) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        events = [event async for event in client.generate(PROMPT, options)]
    prompt = [e for e in events if isinstance(e, PromptLogprobsNotice)]
    tokens = [e for e in events if isinstance(e, TokensNotice)]
    assert sum((e.scores for e in prompt), ()) == expected(options).prompt_scores
    assert events.index(prompt[-1]) < events.index(tokens[0])
    for choice in range(2):
        mine = [e for e in tokens if e.choice == choice]
        alone = expected(options, choice=choice)
        assert sum((e.token_ids for e in mine), ()) == alone.token_ids
        assert sum((e.scores for e in mine), ()) == alone.scores
    assert 0 < sum(e.num_accepted_tokens for e in tokens) <= sum(e.num_draft_tokens for e in tokens)


async def test_a_prompt_can_be_scored_without_a_token_after_it() -> None:
    options = GenerateOptions(max_tokens=0, num_logprobs=1, scores_prompt=True, num_choices=2)
    async with mesh(0.9) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        _, *scored, first, second = [e async for e in client.generate(PROMPT, options)]
        assert made.model.free_cells() == made.config.num_cells
    assert sum((e.scores for e in scored), ()) == expected(options).prompt_scores
    assert {(e.num_tokens, e.finish_reason) for e in (first, second)} == {(0, "length")}
