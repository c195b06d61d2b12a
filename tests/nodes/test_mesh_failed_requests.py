"""Requests to a mesh that are refused, given up, out of time or cannot be sent."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import BackpressureError
from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.rules import Grammar, LogitRules
from nodes.messages import TokensNotice
from tests.nodes.held import held
from tests.nodes.memory_mesh import PROMPT, Eventually, ask, check, mesh

BAD = Grammar("gbnf", "root ::= (")


async def test_bad_requests_come_back_as_errors_with_their_code() -> None:
    async with mesh() as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target"})
        for prompt, options, reason in (
            ("", GenerateOptions(), "the prompt is empty"),
            (PROMPT, GenerateOptions(max_tokens=9000), "context overflow"),
            ((500,), GenerateOptions(), "token id 500 is outside the vocabulary"),
            (PROMPT, GenerateOptions(temperature=-1.0), "temperature"),
            (PROMPT, GenerateOptions(rules=LogitRules(grammar=BAD)), "the grammar is not valid"),
        ):
            with pytest.raises(RequestFailedError, match=reason) as failed:
                await ask(client, options, prompt)
            assert failed.value.code == "bad_request"


async def test_a_request_without_time_ends_everywhere(eventually: Eventually) -> None:
    async with mesh(0.8) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        with (
            held(made.model, after_passes=20),
            pytest.raises(RequestFailedError, match=r"not done within its 0\.3 s") as caught,
        ):
            await ask(client, GenerateOptions(max_tokens=3900, timeout_s=0.3))
        assert caught.value.code == "deadline"
        await eventually(lambda: made.model.free_cells() == made.config.num_cells)


async def test_a_request_given_up_by_its_client_frees_its_place(eventually: Eventually) -> None:
    async with mesh(0.8) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        events = client.generate(PROMPT, GenerateOptions(max_tokens=3000, gamma=4))
        async for event in events:
            if isinstance(event, TokensNotice):
                break
        assert made.model.free_cells() < made.config.num_cells
        await events.aclose()
        await eventually(lambda: made.model.free_cells() == made.config.num_cells)


async def test_a_request_that_cannot_be_sent_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with mesh() as made:
        client = made.start_client("client", rejoins=False)
        await made.wait_for(client, {"target"})

        def full(_frames: object) -> None:
            raise BackpressureError

        monkeypatch.setattr(made.transports["client"], "send", full)
        with pytest.raises(RequestFailedError, match="takes no more") as caught:
            await ask(client, GenerateOptions(max_tokens=4))
        assert caught.value.code == "unavailable"
        monkeypatch.undo()
        options = GenerateOptions(max_tokens=4)
        check(await ask(client, options), options, PROMPT)


async def test_a_request_that_cannot_be_sent_is_tried_again_by_who_rejoins(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    async with mesh() as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target"})
        num_tries = 0

        def full(_frames: object) -> None:
            nonlocal num_tries
            num_tries += 1
            raise BackpressureError

        with monkeypatch.context() as patch:
            patch.setattr(made.transports["client"], "send", full)
            options = GenerateOptions(max_tokens=4)
            asking = asyncio.create_task(ask(client, options))
            await eventually(lambda: num_tries > 2)
        check(await asking, options, PROMPT)
