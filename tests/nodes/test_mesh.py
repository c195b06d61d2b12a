"""A whole mesh in one process: coordinator, target, drafts and clients over memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mesh.codec import decode
from mesh.errors import BackpressureError
from mesh.memory_transport import MemoryHub, MemoryServer
from mesh.messages import Bye
from nodes.client import Client, RequestFailedError
from nodes.coordinator.service import Coordinator
from nodes.draft.node import DraftNode
from nodes.draft.state import ModelDrafter
from nodes.engine.grammar import Grammars
from nodes.engine.load import TOY_COSTS
from nodes.engine.rules import Grammar, LogitBias, LogitRules
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.generation import GenerateOptions, Prompt
from nodes.link import STOPS
from nodes.messages import (
    ChatMessage,
    FinishedNotice,
    PromptLogprobsNotice,
    StartedNotice,
    StreamFigures,
    TokensNotice,
)
from nodes.target.node import TargetNode
from policies.joint import joint_plan
from tests.nodes.reference import Reference, reference

PROMPT = "several devices"
BAD = Grammar("gbnf", "root ::= (")
Eventually = Callable[..., "asyncio.Future[None]"]


@dataclass(slots=True)
class Answer:
    """One choice, put together from its notices."""

    token_ids: list[int] = field(default_factory=list)
    text: bytes = b""
    finish_reason: str = ""
    figures: StreamFigures | None = None


class Members:
    """Starts and stops members by name."""

    def __init__(self, config: ToyConfig) -> None:
        self.hub = MemoryHub()
        self.config = config
        self.model = ToyModel(config)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.transports: dict[str, Any] = {}
        self.clients: dict[str, Client] = {}
        self.server: MemoryServer | None = None

    def start_coordinator(self) -> None:
        self.server = self.hub.server()
        coordinator = Coordinator(
            self.server, joint_plan, heartbeat_interval_s=0.05, heartbeat_timeout_s=0.5
        )
        self.tasks["coordinator"] = asyncio.create_task(coordinator.run())

    def start_target(self) -> None:
        target = TargetNode(
            self._connect("target"),
            self.model,
            ToyTokenizer(self.config.num_vocab),
            TOY_COSTS,
            endpoint="memory",
            node="target",
            prefix_cache_bytes=100_000,
        )
        self.tasks["target"] = asyncio.create_task(target.run())

    def start_draft(self, name: str, agreement: float = 0.8) -> None:
        model = ToyModel(ToyConfig(agreement=agreement))
        draft = DraftNode(
            self._connect(name),
            ModelDrafter(model, grammars=Grammars(ToyTokenizer(96), model.info)),
            model.info,
            TOY_COSTS,
            endpoint="memory",
            node=name,
        )
        self.tasks[name] = asyncio.create_task(draft.run())

    def start_client(self, name: str, role: str = "client", *, rejoins: bool = True) -> Client:
        client = Client(self._connect(name), endpoint="memory", rejoins=rejoins, role=role)
        self.tasks[name] = asyncio.create_task(client.run())
        self.clients[name] = client
        return client

    def _connect(self, name: str) -> Any:
        self.transports[name] = self.hub.client()
        return self.transports[name]

    async def kill(self, name: str) -> None:
        """End a member as a crash would: no Bye, the connection gone."""
        task = self.tasks.pop(name)
        if name in self.transports:
            # What a node says when it stops in good order is not said.
            self.transports[name].send = lambda _frames: None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if name == "coordinator":
            assert self.server is not None
            self.server.close()
        else:
            self.transports.pop(name).close()

    async def stop(self, name: str) -> None:
        """End a member as SIGTERM does."""
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.transports.pop(name).close()

    async def wait_for(self, client: Client, names: set[str]) -> None:
        present: set[str] = set()
        while present != names:
            await asyncio.sleep(0.005)
            present = {n.node for n in (await client.nodes()).nodes}


@contextlib.asynccontextmanager
async def mesh(*drafts: float, **changes: Any) -> AsyncIterator[Members]:
    made = Members(ToyConfig(**changes))
    made.start_coordinator()
    made.start_target()
    for index, agreement in enumerate(drafts):
        made.start_draft(f"draft-{index}", agreement)
    try:
        yield made
        for name, task in made.tasks.items():
            assert not task.done(), f"{name} ended: {task}"
    finally:
        for task in made.tasks.values():
            task.cancel()
        await asyncio.gather(*made.tasks.values(), return_exceptions=True)


async def ask(
    client: Client,
    options: GenerateOptions,
    prompt: Prompt = PROMPT,
    on_tokens: Callable[[], None] = lambda: None,
) -> list[Answer]:
    answers = [Answer() for _ in range(options.num_choices)]
    started: list[StartedNotice] = []
    async for event in client.generate(prompt, options):
        match event:
            case StartedNotice():
                started.append(event)
            case TokensNotice(choice=choice):
                assert started, "tokens before the start"
                assert event.position == len(answers[choice].token_ids)
                answers[choice].token_ids += event.token_ids
                answers[choice].text += event.text
                on_tokens()
            case FinishedNotice(choice=choice):
                assert event.num_tokens == len(answers[choice].token_ids)
                answers[choice].finish_reason = event.finish_reason
                answers[choice].figures = event.figures
    assert len(started) == 1
    return answers


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


def expected(
    options: GenerateOptions, prompt: str | tuple[int, ...] = PROMPT, choice: int = 0, **toy: Any
) -> Reference:
    config = ToyConfig(**toy)
    ids = prompt
    if isinstance(ids, str):
        ids = tuple(ToyTokenizer(config.num_vocab).encode(ids))
    sampling = Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        seed=options.seed or 0,
        choice=choice,
        rules=options.rules,
    )
    return reference(
        config,
        ids,
        sampling,
        max_tokens=options.max_tokens,
        stops=options.stops,
        ignore_eog=options.ignore_eog,
        num_logprobs=-1 if options.num_logprobs is None else options.num_logprobs,
        scores_prompt=options.scores_prompt,
    )


def check(answers: Sequence[Answer], options: GenerateOptions, prompt: Any, **toy: Any) -> None:
    for choice, answer in enumerate(answers):
        alone = expected(options, prompt, choice, **toy)
        assert tuple(answer.token_ids) == alone.token_ids
        assert (answer.text, answer.finish_reason) == (alone.text, alone.finish_reason)


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
        with pytest.raises(RequestFailedError, match="there are: toy-1") as caught:
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
    async with mesh(1.0) as made:
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


async def test_a_draft_that_dies_in_the_middle_changes_no_token() -> None:
    async with mesh(0.8, 0.9) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0", "draft-1"})
        options = GenerateOptions(max_tokens=400, gamma=4, num_choices=2, seed=0)
        seen = asyncio.Event()
        asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
        await seen.wait()
        await made.kill("draft-0")
        seen.clear()
        await seen.wait()
        await made.kill("draft-1")
        made.start_draft("draft-2")
        answers = await asking
        check(answers, options, PROMPT)
        assert all(a.figures is not None and a.figures.num_rounds > 0 for a in answers)


@pytest.mark.timeout(60)
async def test_requests_outlive_their_coordinators(eventually: Eventually) -> None:
    toy = {"eog_rate": 0.0005, "num_cells": 20_000}
    rules = LogitRules((LogitBias(2, 1.0),), 0.5, 0.1)
    requests: list[tuple[Any, GenerateOptions]] = [
        (PROMPT, GenerateOptions(max_tokens=1500, gamma=4)),
        ((7, 8, 9), GenerateOptions(max_tokens=1000, temperature=1.0, seed=4, num_choices=3)),
        (
            "stop",
            GenerateOptions(max_tokens=1200, temperature=0.9, seed=1, stops=("42 17", " 7 7")),
        ),
        ("rules", GenerateOptions(max_tokens=900, temperature=0.8, seed=2, rules=rules)),
        ("scores", GenerateOptions(max_tokens=300, num_logprobs=1, scores_prompt=True)),
    ]
    async with mesh(0.8, **toy) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        num_seen = 0

        def saw() -> None:
            nonlocal num_seen
            num_seen += 1

        jobs = [
            asyncio.create_task(ask(client, options, prompt, saw)) for prompt, options in requests
        ]
        for _ in range(3):
            num_before = num_seen
            await eventually(lambda n=num_before: num_seen > n + 40)
            await made.kill("coordinator")
            made.start_coordinator()
        for (prompt, options), answers in zip(requests, await asyncio.gather(*jobs), strict=True):
            check(answers, options, prompt, **toy)
        await made.wait_for(client, {"target", "draft-0"})
        assert made.model.free_cells() == made.config.num_cells


async def test_a_request_that_outlived_its_coordinator_can_be_given_up(
    eventually: Eventually,
) -> None:
    async with mesh(0.8) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        seen = asyncio.Event()
        options = GenerateOptions(max_tokens=3000, gamma=4)
        asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
        await seen.wait()
        await made.kill("coordinator")
        await eventually(lambda: not client.is_joined)
        made.start_coordinator()
        await made.wait_for(client, {"target", "draft-0"})
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: made.model.free_cells() == made.config.num_cells)


async def test_a_request_without_time_ends_everywhere(eventually: Eventually) -> None:
    async with mesh(0.8) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        with pytest.raises(RequestFailedError, match=r"not done within its 0\.3 s") as caught:
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


async def test_a_client_that_dies_frees_its_place(eventually: Eventually) -> None:
    async with mesh() as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target"})
        seen = asyncio.Event()
        options = GenerateOptions(max_tokens=3500)
        asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
        await seen.wait()
        await made.kill("client")
        await eventually(lambda: made.model.free_cells() == made.config.num_cells)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_target_that_dies_and_comes_back_goes_on_with_its_requests() -> None:
    async with mesh(0.8) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        seen = asyncio.Event()
        options = GenerateOptions(max_tokens=600, gamma=4, num_choices=2, seed=3, stops=("9 9 9",))
        asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
        await seen.wait()
        await made.kill("target")
        await made.wait_for(client, {"draft-0"})
        with pytest.raises(RequestFailedError, match="no target node has joined"):
            await ask(client, options)
        made.model = ToyModel(made.config)
        made.start_target()
        check(await asking, options, PROMPT)
        assert made.model.free_cells() == made.config.num_cells


@pytest.mark.parametrize("name", ["target", "draft-0"])
async def test_a_node_that_stops_says_so_behind_all_that_it_has_done(name: str) -> None:
    async with mesh(0.8) as made:
        client = made.start_client("client")
        await made.wait_for(client, {"target", "draft-0"})
        seen = asyncio.Event()
        options = GenerateOptions(max_tokens=900, gamma=4, num_choices=2, seed=3)
        asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
        await seen.wait()
        sent: list[Any] = []
        transport = made.transports[name]
        send = transport.send
        transport.send = lambda frames: (sent.append(decode(frames).message), send(frames))
        for _ in range(4):
            # Whatever it is doing then.
            await asyncio.sleep(0.005)
        await made.stop(name)
        assert isinstance(sent[-1], Bye)
        assert sent[-1].reason == STOPS
        assert not any(isinstance(message, Bye) for message in sent[:-1])
        if name == "target":
            made.model = ToyModel(made.config)
            made.start_target()
        check(await asking, options, PROMPT)


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
    async with mesh(0.9) as made:
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
