"""Gateways before made-up meshes of several kinds, in a thread of their own, for a browser."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from airdraft.nodes.gateway.apikeys import ApiKeys
from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.telemetry.status import Status, WaitingStatus
from tests.nodes.gateway.calls import add_keys
from tests.nodes.gateway.fake_mesh import FakeMesh, finished, scored, started, tokens
from tests.nodes.gateway.served import recorded_connections, serving
from tests.nodes.status_examples import DRAFT_NODE, GUESSING, STATUS, TARGET_NODE

HOSTILE = "<img src=x onerror=document.title='owned'>"
MARKED = ["Guesses", " are", " checked", ".\n", "<b>So</b>", " it goes"]


def marked_mesh() -> FakeMesh:
    """A mesh whose answers have a token of each kind."""
    scores = tuple(scored(piece, -0.1 * (i + 1)) for i, piece in enumerate(MARKED))
    script = [
        started(),
        tokens(MARKED[0], 0, scores=scores[:1]),
        tokens("".join(MARKED[1:4]), 1, 0, 3, scores[1:4], drafted=4, accepted=2),
        tokens("".join(MARKED[4:]), 4, 0, 2, scores[4:], drafted=1, accepted=1),
        finished(6, drafted=5, accepted=3),
    ]
    return Changing(script)


def held_mesh() -> FakeMesh:
    """A mesh whose answers begin, and do not go on."""
    return FakeMesh(
        [started(), tokens("so far", 0, scores=(scored("so far", -0.5),)), asyncio.Event()]
    )


def hostile(part: Any) -> Any:
    """A part of a status in which everything that a node may choose begins with markup."""
    if isinstance(part, str):
        return HOSTILE + part
    if isinstance(part, tuple):
        return tuple(map(hostile, part))
    if not is_dataclass(part):
        return part
    names = {field.name for field in fields(part)} - {"role", "state"}
    return replace(part, **{name: hostile(getattr(part, name)) for name in names})


def many() -> Status:
    drafts = tuple(
        replace(DRAFT_NODE, name=f"draft-{i:02}.cell-{i % 4}", state="ok") for i in range(62)
    )
    streams = tuple(replace(GUESSING, stream_id=i, num_tokens=8 * i) for i in range(16))
    targets = tuple(replace(TARGET_NODE, name=name) for name in ("big", "other"))
    return replace(STATUS, nodes=(*targets, *drafts), streams=streams, num_streams=16)


def empty() -> Status:
    none = WaitingStatus(0, 0)
    nothing: dict[str, Any] = {"nodes": (), "streams": (), "targets": (), "media": ()}
    return replace(STATUS, num_streams=0, waiting=none, **nothing)


class Changing(FakeMesh):
    """A status that goes on, and waits for an event if there is one."""

    held: asyncio.Event | None = None

    async def status(self) -> Status:
        status = await super().status()
        if self.held is not None:
            await self.held.wait()
        return replace(status, at_s=status.at_s + self.num_status_requests)


@dataclass(frozen=True, slots=True)
class Gateways:
    """url: of each page, by the name of its mesh. connections: all that there have been."""

    meshes: dict[str, FakeMesh]
    url: dict[str, str]
    connections: list[Connection]
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    def cut(self) -> None:
        """Abort all connections of all gateways."""
        for connection in self.connections:
            self.loop.call_soon_threadsafe(connection.abort)

    @contextlib.contextmanager
    def held_status(self, name: str) -> Iterator[None]:
        """Leave who asks a mesh for its status without an answer."""
        mesh = self.meshes[name]
        assert isinstance(mesh, Changing)
        held = mesh.held = asyncio.Event()
        try:
            yield
        finally:
            mesh.held = None
            self.loop.call_soon_threadsafe(held.set)


def made_meshes() -> dict[str, FakeMesh]:
    return {
        "live": Changing(),
        "lost": Changing(),
        "hostile": Changing(shown=hostile(STATUS)),
        "many": Changing(shown=many()),
        "empty": Changing(shown=empty()),
        "marked": marked_mesh(),
        "keys": marked_mesh(),
        "held": held_mesh(),
    }


@contextlib.contextmanager
def gateways_in_a_thread(folder: Path) -> Iterator[Gateways]:
    """Serve all meshes; their keys and settings lie in the folder."""
    ready: Future[Gateways] = Future()
    meshes = made_meshes()
    add_keys(ApiKeys(folder / "keys" / "apikeys.toml"))

    async def serve() -> None:
        stop, url = asyncio.Event(), dict[str, str]()
        async with contextlib.AsyncExitStack() as stack:
            for name, mesh in meshes.items():
                server = await stack.enter_async_context(serving(mesh, folder / name))
                url[name] = server.http.url.removesuffix("v1")
            loop = asyncio.get_running_loop()
            ready.set_result(Gateways(meshes, url, connections, loop, stop))
            await stop.wait()

    with recorded_connections() as connections, ThreadPoolExecutor(1) as pool:
        served = pool.submit(asyncio.run, serve())
        served.add_done_callback(lambda end: ready.done() or ready.set_exception(end.exception()))
        made = ready.result()
        try:
            yield made
        finally:
            made.loop.call_soon_threadsafe(made.stop.set)
        served.result()
