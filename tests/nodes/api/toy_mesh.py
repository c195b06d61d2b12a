"""A mesh of toy models on loopback, in a thread of its own, and the text that its target gives
without a mesh."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from airdraft.mesh.codec import encode
from airdraft.mesh.messages import Refuse
from airdraft.mesh.transport import ClientTransport, ServerTransport
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from tests.nodes.memory_mesh import Members
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


class ZmqHub:
    """Joins them by loopback TCP."""

    def __init__(self, context: ZmqContext) -> None:
        self._context = context

    def server(self) -> ServerTransport:
        bound = self._context.bind("tcp://127.0.0.1:0")
        self._endpoint = bound.endpoint
        return bound

    def client(self) -> ClientTransport:
        return self._context.connect(self._endpoint)


class ToyMesh:
    """model: of the first target. nodes: their tasks, by name."""

    def __init__(self, members: Members, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport, self.coordinator = members.server, members.coordinator
        self.endpoint = members.server.endpoint
        self.model, self.nodes = members.model, members.tasks

    def num_streams(self) -> int:
        return sum(target.num_streams for target in self.coordinator.state.roster.targets())

    def say_bye(self) -> None:
        """The coordinator stops, as its members see it."""
        self.loop.call_soon_threadsafe(self.coordinator.say_bye)

    def stop_coordinator(self) -> None:
        """The coordinator stops, and nobody can join it again."""
        self.say_bye()
        self.loop.call_soon_threadsafe(self.nodes["coordinator"].cancel)

    def refuse_all(self, reason: str) -> None:
        """The coordinator lets none of its members in any more."""
        state = self.coordinator.state
        refusal = encode(Refuse(reason), cluster=state.welcome.cluster, epoch=state.welcome.epoch)
        for peer in state.roster.peers():
            self.loop.call_soon_threadsafe(self.transport.send, peer, refusal)

    def num_received(self, kind: str) -> int:
        """How many messages of a kind have come to the coordinator."""
        wire = self.coordinator.state.reporting.traffic.totals()
        return sum(w.num_messages for w in wire if (w.kind, w.direction) == (kind, "in"))


@contextlib.contextmanager
def toy_mesh(num_targets: int = 1, **changes: Any) -> Iterator[ToyMesh]:
    """changes: of the toy model."""
    started: concurrent.futures.Future[tuple[ToyMesh, asyncio.Event]] = concurrent.futures.Future()

    async def serve() -> None:
        stop = asyncio.Event()
        with ZmqContext() as context:
            members = Members(ToyConfig(**changes), ZmqHub(context))
            members.start_target("target-0")
            for index in range(1, num_targets):
                members.start_target(f"target-{index}", ToyModel(members.config))
            members.start_draft("draft")
            roster = members.coordinator.state.roster
            async with asyncio.timeout(60):
                while len(roster.peers()) < num_targets + 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            started.set_result((ToyMesh(members, asyncio.get_running_loop()), stop))
            await stop.wait()
            for task in members.tasks.values():
                task.cancel()
            await asyncio.gather(*members.tasks.values(), return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    mesh, stop = started.result(timeout=90)
    try:
        yield mesh
    finally:
        mesh.loop.call_soon_threadsafe(stop.set)
        thread.join()
