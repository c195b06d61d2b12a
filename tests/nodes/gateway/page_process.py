"""Gateways before made-up meshes of several kinds, in a process of their own, for a browser.

Prints a line `name url` for each and then `ready`. Ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from nodes.gateway.connection import Connection
from nodes.telemetry.status import Status, WaitingStatus
from tests.nodes.gateway.fake_mesh import FakeMesh, finished, scored, started, tokens
from tests.nodes.gateway.served import serving
from tests.nodes.status_examples import DRAFT_NODE, GUESSING, PLAIN, STATUS, TARGET_NODE

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
    return FakeMesh(script)


def held_mesh() -> FakeMesh:
    """A mesh whose answers begin, and do not go on."""
    return FakeMesh(
        [started(), tokens("so far", 0, scores=(scored("so far", -0.5),)), asyncio.Event()]
    )


def hostile() -> Status:
    """Names and reasons that are markup wherever a node may choose them."""
    node = replace(TARGET_NODE, name=HOSTILE, model=HOSTILE, medium=HOSTILE)
    gone = replace(DRAFT_NODE, name=f"{HOSTILE}2", state="left", reason=HOSTILE)
    stream = replace(PLAIN, target=HOSTILE, draft=HOSTILE, reason=HOSTILE, phase=HOSTILE)
    target = STATUS.targets[0]
    assert target.plan is not None
    plan = replace(target.plan, policy=HOSTILE, bound=HOSTILE)
    spans = tuple(replace(span, node=HOSTILE, stage=HOSTILE) for span in target.spans)
    media = tuple(replace(medium, name=HOSTILE) for medium in STATUS.media)
    return replace(
        STATUS,
        cluster=HOSTILE,
        version=HOSTILE,
        nodes=(node, gone),
        streams=(stream,),
        targets=(replace(target, name=HOSTILE, plan=plan, spans=spans),),
        media=media,
    )


def many() -> Status:
    drafts = tuple(
        replace(DRAFT_NODE, name=f"draft-{i:02}.cell-{i % 4}", state="ok") for i in range(62)
    )
    streams = tuple(replace(GUESSING, stream_id=i, num_tokens=8 * i) for i in range(16))
    targets = tuple(replace(TARGET_NODE, name=name) for name in ("big", "other"))
    return replace(STATUS, nodes=(*targets, *drafts), streams=streams, num_streams=16)


def empty() -> Status:
    none = WaitingStatus(0, 0, 0.0, {})
    nothing: dict[str, Any] = {"nodes": (), "streams": (), "targets": (), "media": ()}
    return replace(STATUS, num_streams=0, waiting=none, **nothing)


class Changing(FakeMesh):
    """A status that goes on."""

    async def status(self) -> Status:
        status = await super().status()
        return replace(status, at_s=status.at_s + self.num_status_requests)


def recorded_connections() -> list[Connection]:
    """All connections that gateways of this process get from now on."""
    connections: list[Connection] = []
    connection_made = Connection.connection_made

    def recorded(connection: Connection, transport: asyncio.Transport) -> None:
        connections.append(connection)
        connection_made(connection, transport)

    setattr(Connection, "connection_made", recorded)  # noqa: B010 - to another method
    return connections


async def main() -> None:
    meshes = {
        "marked": marked_mesh(),
        "keys": marked_mesh(),
        "held": held_mesh(),
        "live": Changing(),
        "lost": Changing(),
    }
    for name, status in {"hostile": hostile(), "many": many(), "empty": empty()}.items():
        meshes[name] = Changing()
        meshes[name].shown = status
    connections = recorded_connections()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = ApiKeys(folder / "keys" / "apikeys.toml")
        for name, scopes in (("boss", ("infer", "admin")), ("guest", ("infer",))):
            keys.add(ApiKey(name=name, sha256=digest(f"ad-{name}"), scopes=scopes))
        for name, made in meshes.items():
            server = await stack.enter_async_context(serving(made, folder / name))
            print(name, server.http.url.removesuffix("v1"), flush=True)
        print("ready", flush=True)
        # A line that names a mesh loses its coordinator; `cut` aborts all connections.
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "cut":
                for connection in connections:
                    connection.abort()
            else:
                meshes[line.strip()].is_joined = False


if __name__ == "__main__":
    asyncio.run(main())
