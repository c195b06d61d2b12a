"""Requests to a mesh that are refused, given up, out of time or cannot be sent."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import BackpressureError
from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions, Prompt
from nodes.engine.rules import Grammar, LogitRules
from nodes.messages import TokensNotice
from tests.nodes.held import held
from tests.nodes.memory_mesh import PROMPT, Eventually, ask, check, mesh

BAD = Grammar("gbnf", "root ::= (")


async def test_bad_requests_come_back_as_errors_with_their_code() -> None:
    async with mesh() as made:
        client = await made.join()
        refused: tuple[tuple[Prompt, GenerateOptions, str], ...] = (
            ("", GenerateOptions(), "the prompt is empty"),
            (PROMPT, GenerateOptions(max_tokens=9000), "context overflow"),
            ((500,), GenerateOptions(), "token id 500 is outside the vocabulary"),
            (PROMPT, GenerateOptions(temperature=-1.0), "temperature"),
            (PROMPT, GenerateOptions(rules=LogitRules(grammar=BAD)), "the grammar is not valid"),
        )
        for prompt, options, reason in refused:
            with pytest.raises(RequestFailedError, match=reason) as failed:
                await ask(client, options, prompt)
            assert failed.value.code == "bad_request"


async def test_a_request_without_time_ends_everywhere(eventually: Eventually) -> None:
    async with mesh(0.8) as made:
        client = await made.join()
        with (
            held(made.model, after_passes=20),
            pytest.raises(RequestFailedError, match=r"not done within its 0\.3 s") as caught,
        ):
            await ask(client, GenerateOptions(max_tokens=3900, timeout_s=0.3))
        assert caught.value.code == "deadline"
        await eventually(made.is_empty)


async def test_a_request_given_up_by_its_client_frees_its_place(eventually: Eventually) -> None:
    async with mesh(0.8) as made:
        client = await made.join()
        events = client.generate(PROMPT, GenerateOptions(max_tokens=3000, gamma=4))
        async for event in events:
            if isinstance(event, TokensNotice):
                break
        assert not made.is_empty()
        await events.aclose()
        await eventually(made.is_empty)


@pytest.mark.parametrize("rejoins", [False, True])
async def test_a_request_that_cannot_be_sent_fails_or_is_tried_again_by_who_rejoins(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually, rejoins: bool
) -> None:
    async with mesh() as made:
        client = made.start_client("client", rejoins=rejoins)
        await made.wait_for(client, {"target"})
        num_tries = 0

        def full(_frames: object) -> None:
            nonlocal num_tries
            num_tries += 1
            raise BackpressureError

        options = GenerateOptions(max_tokens=4)
        with monkeypatch.context() as patch:
            patch.setattr(made.transports["client"], "send", full)
            asking = asyncio.create_task(ask(client, options))
            if rejoins:
                await eventually(lambda: num_tries > 2)
            else:
                with pytest.raises(RequestFailedError, match="takes no more") as caught:
                    await asking
                assert caught.value.code == "unavailable"
        check(await (asking if rejoins else ask(client, options)), options, PROMPT)
