"""A whole mesh in one process: coordinator, target, drafts and clients, as a rule over memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions, Prompt, submit_of
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.coordinator.service import Coordinator
from airdraft.nodes.draft.node import DraftNode
from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.load import TOY_COSTS
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice
from airdraft.nodes.target.node import TargetNode
from tests.harness.memory_transport import MemoryHub
from tests.nodes.machine.setup import alone

PROMPT = "several devices"
Eventually = Callable[..., "asyncio.Future[None]"]


@dataclass(slots=True)
class Answer:
    """One choice, put together from its notices."""

    token_ids: list[int] = field(default_factory=list)
    text: bytes = b""
    finish_reason: str = ""
    figures: StreamFigures | None = None


class Passing(ToyModel):
    """A toy that says it is what it is not: so what computes other bits shows in the text."""

    def __init__(self, config: ToyConfig, **said: Any) -> None:
        """said: fields of its EngineInfo."""
        super().__init__(config)
        self.info = replace(self.info, **said)


class Members:
    """Starts and stops members by name. hub: what connects them."""

    def __init__(self, config: ToyConfig, hub: Any = None) -> None:
        self.hub = hub or MemoryHub()
        self.config = config
        self.model = ToyModel(config)
        self.nodes: set[str] = set()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.transports: dict[str, Any] = {}
        self.start_coordinator()

    def start_coordinator(self) -> None:
        self.server = self.hub.server()
        times = CoordinatorConfig(heartbeat_interval_s=0.05, heartbeat_timeout_s=60.0)
        self.coordinator = Coordinator(self.server, times)
        self.tasks["coordinator"] = asyncio.create_task(self.coordinator.run())

    def start_target(self, name: str = "target", model: ToyModel | None = None) -> None:
        """model: what it computes; otherwise that of the mesh."""
        self.nodes.add(name)
        target = TargetNode(
            self.connect(name),
            model or self.model,
            ToyTokenizer(self.config.num_vocab),
            TOY_COSTS,
            endpoint=self.server.endpoint,
            node=name,
            prefix_cache_bytes=100_000,
        )
        self.tasks[name] = asyncio.create_task(target.run())

    def start_draft(self, name: str, agreement: float = 0.8) -> None:
        self.nodes.add(name)
        model = ToyModel(ToyConfig(agreement=agreement))
        grammars = Grammars(ToyTokenizer(96).piece, 96, model.info.eog_token_ids)
        known = model.info, TOY_COSTS
        where = {"endpoint": self.server.endpoint, "node": name}
        state = DraftState(model, grammars=grammars)
        draft = DraftNode(self.connect(name), state, *known, **where)
        self.tasks[name] = asyncio.create_task(draft.run())

    def start_client(self, name: str, role: str = "client", *, rejoins: bool = True) -> MeshClient:
        client = MeshClient(
            self.connect(name), endpoint=self.server.endpoint, rejoins=rejoins, role=role
        )
        self.tasks[name] = asyncio.create_task(client.run())
        return client

    async def join(self, role: str = "client") -> MeshClient:
        """A client of a mesh whose nodes are all there."""
        client = self.start_client(role, role)
        await self.wait_for(client, self.nodes)
        return client

    def is_empty(self) -> bool:
        """Whether its target holds nothing of any text."""
        return self.model.free_cells() == self.config.num_cells

    def connect(self, name: str) -> Any:
        self.transports[name] = self.hub.client()
        return self.transports[name]

    async def stop(self, name: str) -> None:
        """End a member as SIGTERM does."""
        self.nodes.discard(name)
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if name == "coordinator":
            self.server.close()
        else:
            self.transports.pop(name).close()

    async def wait_for(self, client: MeshClient, names: set[str]) -> None:
        present: set[str] = set()
        while present != names:
            await asyncio.sleep(0.005)
            present = {n.node for n in (await client.nodes()).nodes}


@contextlib.asynccontextmanager
async def mesh(*drafts: float, **changes: Any) -> AsyncIterator[Members]:
    """drafts: how often each agrees. changes: of the toy."""
    made = Members(ToyConfig(**changes))
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
    client: MeshClient,
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


def check(answers: Sequence[Answer], options: GenerateOptions, prompt: Any, **toy: Any) -> None:
    """Every choice is what it would be alone."""
    config = ToyConfig(**toy)
    ids = ToyTokenizer(config.num_vocab).encode(prompt) if isinstance(prompt, str) else prompt
    submit = submit_of(tuple(ids), options, options.seed or 0)
    for choice, answer in enumerate(answers):
        expected = alone(config, submit, choice)
        assert tuple(answer.token_ids) == expected.token_ids
        assert (answer.text, answer.finish_reason) == (expected.text, expected.finish_reason)
