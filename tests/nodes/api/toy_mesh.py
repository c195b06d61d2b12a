"""A mesh of toy models on loopback, in a thread of its own, and the text that its target gives
without a mesh."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.codec import encode
from mesh.messages import Refuse
from mesh.transport import ServerTransport
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.coordinator.service import Coordinator
from nodes.draft.node import DraftNode
from nodes.draft.state import DraftState
from nodes.engine.load import TOY_COSTS
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.target.node import TargetNode
from tests.nodes.reference import Reference, reference

TOY = ToyConfig()


def alone(
    prompt: str,
    max_tokens: int,
    *,
    stops: Sequence[str] = (),
    ignore_eog: bool = False,
    config: ToyConfig = TOY,
    **sampling: Any,
) -> Reference:
    """What the target of a toy mesh answers; it decodes greedily unless sampling says otherwise."""
    ids = ToyTokenizer(config.num_vocab).encode(prompt)
    asked = {"max_tokens": max_tokens, "stops": stops, "ignore_eog": ignore_eog}
    return reference(config, ids, Sampling(**sampling), **asked)


@dataclass(slots=True)
class ToyMesh:
    """model: of the first target."""

    endpoint: str
    transport: ServerTransport
    coordinator: Coordinator
    loop: asyncio.AbstractEventLoop
    nodes: dict[str, asyncio.Task[None]]
    model: ToyModel

    def num_streams(self) -> int:
        schedulers = self.coordinator.state.roster.schedulers()
        return sum(len(scheduler.streams) for _, scheduler in schedulers)

    def say_bye(self) -> None:
        """The coordinator stops, as its members see it."""
        self.loop.call_soon_threadsafe(self.coordinator.say_bye)

    def refuse_all(self, reason: str) -> None:
        """The coordinator lets none of its members in any more."""
        state = self.coordinator.state
        refusal = encode(Refuse(reason), cluster=state.welcome.cluster, epoch=state.welcome.epoch)
        for peer in state.roster.peers():
            self.loop.call_soon_threadsafe(self.transport.send, peer, refusal)

    async def num_received(self, kind: str) -> int:
        """How many messages of a kind have come to the coordinator."""
        with ZmqContext() as context:
            client = Client(context.connect(self.endpoint, None), endpoint=self.endpoint)
            running = asyncio.create_task(client.run())
            wire = (await client.status()).totals.wire
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return sum(w.num_messages for w in wire if (w.kind, w.direction) == (kind, "in"))


@contextlib.contextmanager
def toy_mesh(num_targets: int = 1, **changes: Any) -> Iterator[ToyMesh]:
    """changes: of the toy model."""
    started: concurrent.futures.Future[tuple[ToyMesh, asyncio.Event]] = concurrent.futures.Future()

    async def serve() -> None:
        stop = asyncio.Event()
        with ZmqContext() as context:
            transport = context.bind("tcp://127.0.0.1:0")
            coordinator = Coordinator(
                transport, heartbeat_interval_s=0.05, heartbeat_timeout_s=60.0
            )
            endpoint = coordinator.endpoint
            serving = asyncio.create_task(coordinator.run())
            config = ToyConfig(**changes)
            nodes: dict[str, asyncio.Task[None]] = {}
            models = [ToyModel(config) for _ in range(num_targets)]
            for index in range(num_targets):
                name = f"target-{index}"
                target = TargetNode(
                    context.connect(endpoint),
                    models[index],
                    ToyTokenizer(config.num_vocab),
                    TOY_COSTS,
                    endpoint=endpoint,
                    node=name,
                )
                nodes[name] = asyncio.create_task(target.run())
            model = ToyModel(ToyConfig(agreement=0.8))
            draft = DraftNode(
                context.connect(endpoint),
                DraftState(model),
                model.info,
                TOY_COSTS,
                endpoint=endpoint,
                node="draft",
            )
            nodes["draft"] = asyncio.create_task(draft.run())
            async with asyncio.timeout(60):
                while len(coordinator.state.roster.peers()) < num_targets + 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            loop = asyncio.get_running_loop()
            made = ToyMesh(endpoint, transport, coordinator, loop, nodes, models[0])
            started.set_result((made, stop))
            await stop.wait()
            for task in (*nodes.values(), serving):
                task.cancel()
            await asyncio.gather(*nodes.values(), serving, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    mesh, stop = started.result(timeout=90)
    try:
        yield mesh
    finally:
        mesh.loop.call_soon_threadsafe(stop.set)
        thread.join()
