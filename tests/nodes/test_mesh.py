"""A whole mesh in one process, over connections in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airdraft.mesh.codec import decode
from airdraft.mesh.errors import BackpressureError
from airdraft.mesh.messages import Bye
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.toy import ToyModel
from airdraft.nodes.worker.connection import STOPS
from tests.nodes.memory_mesh import PROMPT, Eventually, ask, check, mesh


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


async def test_guesses_save_passes() -> None:
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
                # A query fails as well, at once.
                for asked in (asking, client.nodes()):
                    with pytest.raises(RequestFailedError, match="takes no more") as caught:
                        await asked
                    assert caught.value.code == "unavailable"
        check(await (asking if rejoins else ask(client, options)), options, PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["target", "draft-0"])
async def test_a_node_that_stops_says_so_behind_all_that_it_has_done(name: str) -> None:
    async with mesh(0.8) as made:
        client = await made.join()
        options = GenerateOptions(max_tokens=900, gamma=4, num_choices=2, seed=3)
        seen = asyncio.Event()
        asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
        await seen.wait()
        transport = made.transports[name]
        send, sent = transport.send, list[Any]()
        transport.send = lambda frames: (sent.append(decode(frames).message), send(frames))
        while not sent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await made.stop(name)
        assert isinstance(sent[-1], Bye)
        assert sent[-1].reason == STOPS
        assert not any(isinstance(message, Bye) for message in sent[:-1])
        if name == "target":
            made.model = ToyModel(made.config)
            made.start_target()
        check(await asking, options, PROMPT)
