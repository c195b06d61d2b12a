"""A private mesh on this machine: coordinator here, draft and target in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mesh.endpoints import on_this_machine
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.config.settings import CoordinatorConfig, EngineSettings, LimitSettings, environment
from nodes.coordinator.service import Coordinator
from nodes.keys.keyring import default_keyring
from nodes.scheduler.planning import MODES, Mode
from nodes.service.child import Child, node_command, start_child
from nodes.service.restarting import Restarts
from nodes.service.roles import warn_of_others
from nodes.service.runtime import last_act

logger = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_LIMIT_S = 3.0
_LAST_WORDS_S = 1.0
_POLL_S = 0.02


class NodeFailedError(OSError):
    """A node of the private mesh ended; the text is its own last line."""


class LocalMesh:
    """The coordinator of this process and the nodes it started.

    restarts: nodes that end are started again. tell: gets a line about each node that ended.
    status: gets the nodes' progress, and "" when there is none any more.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        restarts: bool = False,
        tell: Callable[[str], None] = logger.warning,
        status: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.endpoint = endpoint
        self.serving: list[asyncio.Task[None]] = []
        self.is_up = False
        self._restarts = restarts
        self._tell = tell
        self._status = status
        self._children: dict[str, Child] = {}
        # One for each node that was ever started, as long as its standard error is open.
        self._readers: set[asyncio.Task[None]] = set()

    def pid(self, role: str) -> int:
        """Process id of the node of a role."""
        return self._children[role].pid

    async def start(
        self,
        role: str,
        engine: EngineSettings,
        *,
        hashed: str = "",
        on_joined: Callable[[], None] = lambda: None,
    ) -> Child:
        """Start the node of a role. hashed, on_joined: as in Child, hashed of the one before it."""
        command = node_command(role, self.endpoint, engine, hashed)
        child = await start_child(role, command, self._status, on_joined)
        self._children[role] = child
        self._readers.add(child.reader)
        child.reader.add_done_callback(self._readers.discard)
        return child

    async def keep(self, role: str, engine: EngineSettings) -> None:
        """Run the node of a role, and with `restarts` the next one whenever it has ended.

        Returns when there is to be none any more but the mesh goes on. Raises NodeFailedError
        where it cannot: a node does not come up, or the target ends and is not started again.
        """
        loop = asyncio.get_running_loop()
        deaths, hashed = Restarts(), ""
        while True:
            child = await self.start(
                role, engine, hashed=hashed, on_joined=lambda: deaths.joined(loop.time())
            )
            exit_code = await child.ended()
            # What it said last is on its way. What it has started may never end that.
            await asyncio.wait({child.reader}, timeout=_LAST_WORDS_S)
            hashed = child.hashed or hashed
            how = f"the {role} node ended ({child.last_error() or child.how_it_ended()})"
            wait_s = None
            if self._restarts:
                wait_s = deaths.ended(exit_code, loop.time(), was_ready=self.is_up)
            if wait_s is not None:
                self._tell(f"{how}: starting it again" + (f" in {wait_s:g} s" if wait_s else ""))
                await asyncio.sleep(wait_s)
            elif not self.is_up or (role == "target" and not self._restarts):
                raise NodeFailedError(child.last_error() or how)
            else:
                self._tell(f"{how}: it is not started again")
                return

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, but raise at once what ends the mesh while it runs."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                running = [other for other in self.serving if not other.done()]
                await asyncio.wait([task, *running], return_when=asyncio.FIRST_COMPLETED)
                for other in self.serving:
                    if other.done():
                        other.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def kill(self) -> None:
        """End the nodes at once, and what they have started."""
        running = [child for child in self._children.values() if child.exit_code is None]
        for child in running:
            child.kill()
        for child in running:
            # Whoever watches it takes its exit code.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    async def stop(self) -> None:
        """End the nodes: they stop by themselves when their standard input closes."""
        children = self._children.values()
        for child in children:
            child.close_stdin()
        # What a node has started may hold its standard error open, whoever has ended.
        with contextlib.suppress(TimeoutError):
            waits = [child.ended() for child in children]
            await asyncio.wait_for(asyncio.gather(*waits), _STOP_LIMIT_S)
        for child in children:
            child.kill()
        with contextlib.suppress(TimeoutError):
            waits = [child.ended() for child in children]
            rest = asyncio.gather(*waits, *self._readers, return_exceptions=True)
            await asyncio.wait_for(rest, _STOP_LIMIT_S)


@contextlib.asynccontextmanager
async def local_mesh(
    target: EngineSettings,
    draft: EngineSettings | None,
    *,
    lookup: bool = False,
    listen: str | None = None,
    limits: LimitSettings | None = None,
    role: str = "client",
    mode: Mode = MODES["auto"],
    status: Callable[[str], None] = lambda _line: None,
    restarts: bool = False,
    tell: Callable[[str], None] = logger.warning,
) -> AsyncIterator[tuple[LocalMesh, Client]]:
    """Start a mesh, wait until it can serve, and end it whatever happens inside.

    lookup: guess from the texts so far, too. listen: endpoint to bind; None binds a socket file in
    a directory only we can enter. limits, mode: of the coordinator. role: what the client joins as.
    status, restarts, tell: as in LocalMesh. Raises NodeFailedError if a node does not come up.
    """
    ring = default_keyring(environment())
    with contextlib.ExitStack() as stack:
        endpoint = listen or f"ipc://{stack.enter_context(_folder()) / secrets.token_hex(4)}"
        context = stack.enter_context(ZmqContext())
        secured = ring.server_keys(endpoint)
        coordinator = Coordinator(
            context.bind(endpoint, secured),
            heartbeat_timeout_s=CoordinatorConfig().heartbeat_timeout_s,
            lookup=lookup,
            authorized=ring.authorized if secured is not None else None,
            next_key=ring.next_key_reader(secured),
            limits=limits,
            mode=mode,
        )
        if secured is None:
            # Not before it is bound: what keeps it from that is told in one line.
            warn_of_others(coordinator.endpoint)
        mesh = LocalMesh(
            on_this_machine(coordinator.endpoint), restarts=restarts, tell=tell, status=status
        )
        keys = ring.client_keys(mesh.endpoint) if secured is not None else None
        # What is to stay must not end because its own event loop was late once.
        client = Client(
            context.connect(mesh.endpoint, keys),
            endpoint=mesh.endpoint,
            role=role,
            rejoins=restarts,
        )
        mesh.serving += [asyncio.create_task(coordinator.run()), asyncio.create_task(client.run())]
        with last_act(mesh.kill):
            try:
                engines = {"target": target} | ({} if draft is None else {"draft": draft})
                for name, engine in engines.items():
                    mesh.serving.append(asyncio.create_task(mesh.keep(name, engine)))
                await mesh.beside(_until_joined(client, set(engines)))
                mesh.is_up = True
                yield mesh, client
            finally:
                coordinator.say_bye()
                for task in mesh.serving:
                    task.cancel()
                await asyncio.gather(*mesh.serving, return_exceptions=True)
                await mesh.stop()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A directory that only we can enter, which goes even where this process is ended at once."""
    made = tempfile.TemporaryDirectory(prefix="airdraft-")
    with made as name, last_act(partial(shutil.rmtree, name, ignore_errors=True)):
        yield Path(name)


async def _until_joined(client: Client, wanted: set[str]) -> None:
    present: set[str] = set()
    while not wanted <= present:
        await asyncio.sleep(_POLL_S)
        present = {node.role for node in (await client.nodes()).nodes}
