"""A private mesh on this machine: a coordinator in this process, target and draft as children."""

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
from typing import Any, Final, TypeVar

from airdraft.mesh.endpoints import on_this_machine
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.config.settings import CoordinatorConfig, EngineSettings
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.service.roles import bound_coordinator, keyring
from airdraft.nodes.service.runtime import (
    EXIT_CONFIG,
    EXIT_DISMISSED,
    EXIT_NO_PERMISSION,
    EXIT_PROTOCOL,
    EXIT_USAGE,
    beside,
    last_act,
)
from airdraft.nodes.service.supervision import Child, node_command, node_environment

logger = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_LIMIT_S = 3.0
_LAST_WORDS_S = 1.0
_POLL_S = 0.02


# The pauses before the first, second, ... restart in a row; the last one holds for all later ones.
WAITS_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 5.0)
# After so many seconds in the mesh a node counts as healthy, and its next end as the first one. A
# cause that persists, such as a request that is sent again, ends a serving node within seconds.
HEALTHY_S: Final = 5.0
# Until the mesh is ready, a user waits for it and has to see the error.
MOST_FAILED_STARTS: Final = 5
# The exit codes after which a restart would end in the same way (docs/reference/exit-codes.md).
_MISTAKES: Final = {EXIT_USAGE, EXIT_PROTOCOL, EXIT_NO_PERMISSION, EXIT_CONFIG}


class NodeFailedError(OSError):
    """A node of the private mesh ended. The message is the node's last error line."""


class Restarts:
    """Decides when a node is restarted after it has ended.

    The first restart is immediate, because most causes of an end are gone at the next start. A node
    that ends again and again gets longer pauses, so that it does not take the CPU from the others
    by loading its model all the time.
    """

    def __init__(self) -> None:
        self._num_in_a_row = 0

    def count_end(self, exit_code: int, in_mesh_s: float, *, was_ready: bool) -> float | None:
        """Count an end; return the seconds until the next start, None if the node is not restarted.

        exit_code: Negative for a signal. in_mesh_s: How long ago the node had joined, 0.0 if it had
        not. was_ready: Whether the whole mesh has ever been ready.
        """
        if in_mesh_s >= HEALTHY_S:
            self._num_in_a_row = 0
        self._num_in_a_row += 1
        if exit_code == EXIT_DISMISSED:
            return None
        if not was_ready and (exit_code in _MISTAKES or self._num_in_a_row >= MOST_FAILED_STARTS):
            return None
        return WAITS_S[min(self._num_in_a_row, len(WAITS_S)) - 1]


class LocalMesh:
    """The coordinator of this process and the nodes that it started.

    restarts: Whether nodes that end are restarted. tell: Gets a line about each node that ended,
    and what nodes have to say. progress: Gets the nodes' progress, and the label "" when a node has
    joined. keys: The nodes' directory of keys; "" for the usual one.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        restarts: bool = False,
        tell: Callable[[str], None] = logger.warning,
        progress: Progress = lambda *_: None,
        keys: str = "",
    ) -> None:
        self.endpoint = endpoint
        self._environ = node_environment(keys)
        self.serving: list[asyncio.Task[None]] = []
        self.is_up = False
        self._restarts = restarts
        self._tell = tell
        self._progress = progress
        self._children: dict[str, Child] = {}
        # The readers of all nodes that were started and whose standard error is still open.
        self._readers: set[asyncio.Task[None]] = set()

    def pid(self, role: str) -> int:
        """Returns the process id of the node of a role."""
        return self._children[role].pid

    async def _start(self, role: str, engine: EngineSettings) -> Child:
        """Start the node of a role."""
        command = node_command(role, self.endpoint, engine)
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal reaches all foreground processes, but this one stops the nodes.
            start_new_session=True,
        )
        child = self._children[role] = Child(role, process, self._progress, self._tell)
        self._readers.add(child.reader)
        child.reader.add_done_callback(self._readers.discard)
        return child

    async def keep(self, role: str, engine: EngineSettings) -> None:
        """Run the node of a role, and with `restarts` start it again whenever it has ended.

        Returns if the node is not restarted but the mesh can serve without it. Raises
        NodeFailedError if it cannot: a node never joins, or the target ends without a restart.
        """
        deaths = Restarts()
        while True:
            try:
                child = await self._start(role, engine)
            except OSError as error:
                # Memory or a number of processes may be short for a while.
                if not (self._restarts and self.is_up):
                    raise
                self._tell(f"no {role} node can be started ({error}): trying again")
                await asyncio.sleep(WAITS_S[-1])
                continue
            exit_code = await child.wait_for_end()
            # Wait for the last lines, but not for ever: a process that the node has started may
            # keep its standard error open.
            await asyncio.wait({child.reader}, timeout=_LAST_WORDS_S)
            how = f"the {role} node ended ({child.last_error() or child.how_it_ended()})"
            wait_s = None
            if self._restarts:
                wait_s = deaths.count_end(exit_code, child.in_mesh_s, was_ready=self.is_up)
            if wait_s is not None:
                self._tell(f"{how}: starting it again" + (f" in {wait_s:g} s" if wait_s else ""))
                await asyncio.sleep(wait_s)
            elif not self.is_up or (role == "target" and not self._restarts):
                raise NodeFailedError(child.last_error() or how)
            else:
                self._tell(f"{how}: it is not started again")
                return

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, but raise an error that ends the mesh at once."""
        return await beside(self.serving, work)

    def kill(self) -> None:
        """Kill the nodes and all that they have started."""
        running = [child for child in self._children.values() if child.exit_code is None]
        for child in running:
            child.kill()
        for child in running:
            # WNOWAIT leaves the exit code to asyncio's child watcher.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    async def stop(self) -> None:
        """Stop the nodes by closing their standard input; those that do not stop are killed."""
        children = self._children.values()
        for child in children:
            child.close_stdin()
        # A process that a node has started may keep the node's standard error open.
        with contextlib.suppress(TimeoutError):
            waits = [child.wait_for_end() for child in children]
            await asyncio.wait_for(asyncio.gather(*waits), _STOP_LIMIT_S)
        for child in children:
            child.kill()
        with contextlib.suppress(TimeoutError):
            waits = [child.wait_for_end() for child in children]
            rest = asyncio.gather(*waits, *self._readers, return_exceptions=True)
            await asyncio.wait_for(rest, _STOP_LIMIT_S)


@contextlib.asynccontextmanager
async def local_mesh(
    target: EngineSettings,
    draft: EngineSettings | None,
    *,
    listen: str | None = None,
    config: CoordinatorConfig | None = None,
    role: str = "client",
    progress: Progress = lambda *_: None,
    restarts: bool = False,
    tell: Callable[[str], None] = logger.warning,
) -> AsyncIterator[tuple[LocalMesh, MeshClient]]:
    """Start a mesh, wait until it can serve, and stop it at the end of the block.

    listen: The endpoint to bind; None binds a socket file in a private directory. config: The
    coordinator's other settings. role: The client's role. progress, restarts, tell: As in
    LocalMesh. Raises NodeFailedError if a node never joins.
    """
    config = config or CoordinatorConfig()
    ring = keyring(config.keys)
    with contextlib.ExitStack() as stack:
        endpoint = listen or f"ipc://{stack.enter_context(_folder()) / secrets.token_hex(4)}"
        context = stack.enter_context(ZmqContext())
        coordinator = bound_coordinator(context, ring, endpoint, config)
        mesh = LocalMesh(
            on_this_machine(coordinator.endpoint),
            restarts=restarts,
            tell=tell,
            progress=progress,
            keys=config.keys,
        )
        # A mesh that must stay up must not end because its own event loop was late once.
        client = MeshClient(
            context.connect(mesh.endpoint, ring.client_keys(mesh.endpoint)),
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
    """Make a private directory, which is deleted even if this process is ended at once."""
    made = tempfile.TemporaryDirectory(prefix="airdraft-")
    with made as name, last_act(partial(shutil.rmtree, name, ignore_errors=True)):
        yield Path(name)


async def _until_joined(client: MeshClient, wanted: set[str]) -> None:
    present: set[str] = set()
    while not wanted <= present:
        await asyncio.sleep(_POLL_S)
        present = {node.role for node in (await client.nodes()).nodes}
