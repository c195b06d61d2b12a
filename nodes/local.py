"""A private mesh on this machine: coordinator here, draft and target in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mesh.endpoints import on_this_machine
from mesh.zmq_transport import ZmqContext
from nodes.client import Client
from nodes.config import CoordinatorConfig, EngineSettings, LimitSettings, environment
from nodes.coordinator.careful import careful
from nodes.coordinator.service import Coordinator
from nodes.keyring import default_keyring
from nodes.roles import warn_of_others
from nodes.runtime import last_act
from policies.joint import joint_plan
from policies.plan import Policy

logger = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_LIMIT_S = 3.0
_POLL_S = 0.02


class NodeFailedError(OSError):
    """A node of the private mesh ended; the text is its own last line."""


@dataclass(slots=True)
class _Child:
    role: str
    process: asyncio.subprocess.Process
    errors: list[str]


def node_command(role: str, endpoint: str, engine: EngineSettings) -> list[str]:
    """The command line that starts a supervised node of this installation.

    -P: not of modules that the folder it is started in happens to hold.
    """
    command = [sys.executable, "-P", "-m", "nodes.cli", role, "--supervised", "--connect", endpoint]
    for item in fields(engine):
        if (value := getattr(engine, item.name)) != "":
            command += ["--" + item.name.replace("_", "-"), str(value)]
    return command


class LocalMesh:
    """The coordinator of this process and the nodes it started."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._children: list[_Child] = []
        self._readers: list[asyncio.Task[None]] = []
        self.status: Callable[[str], None] = lambda _line: None
        self.serving: list[asyncio.Task[None]] = []
        self.is_up = False

    async def start(self, role: str, engine: EngineSettings) -> None:
        process = await asyncio.create_subprocess_exec(
            *node_command(role, self.endpoint, engine),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A terminal's Ctrl-C goes to every process in front: the nodes stop when we say so.
            start_new_session=True,
        )
        child = _Child(role, process, [])
        self._children.append(child)
        self._readers.append(asyncio.create_task(self._relay(child)))

    async def _relay(self, child: _Child) -> None:
        """Keep a node's last lines, and show its progress."""
        assert child.process.stderr is not None
        async for raw in child.process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if line.startswith("progress: "):
                self.status(line.removeprefix("progress: "))
            elif line:
                child.errors.append(line)
                del child.errors[:-20]
                level = logging.WARNING if " WARNING " in line else logging.INFO
                logger.log(level, "%s: %s", child.role, line)

    def pid(self, role: str) -> int:
        """Process id of the first node of a role."""
        return next(c.process.pid for c in self._children if c.role == role)

    async def watch(self) -> None:
        """Raise NodeFailedError when the target ends, or any node before the mesh is up.

        After that a draft node may go at any time: it costs speed only.
        """
        while True:
            for child in list(self._children):
                if child.process.returncode is None:
                    continue
                await asyncio.sleep(_POLL_S)
                self._children.remove(child)
                error = self._last_error(child)
                if child.role == "target" or not self.is_up:
                    raise NodeFailedError(error)
                logger.warning("%s", error)
            await asyncio.sleep(_POLL_S)

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, but raise at once what ends the mesh while it runs."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, *self.serving], return_when=asyncio.FIRST_COMPLETED)
            for other in self.serving:
                if other.done():
                    other.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _last_error(self, child: _Child) -> str:
        for line in reversed(child.errors):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        code = child.process.returncode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the {child.role} node ended ({how})"

    def kill(self) -> None:
        """End the nodes at once, and what they have started."""
        pids = [c.process.pid for c in self._children if c.process.returncode is None]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid in pids:
            # Whoever watches it takes its exit code.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    async def stop(self) -> None:
        """End the nodes: they stop by themselves when their standard input closes."""
        for child in self._children:
            if child.process.returncode is None:
                assert child.process.stdin is not None
                child.process.stdin.close()
        waits = [c.process.wait() for c in self._children]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waits), _STOP_LIMIT_S)
        for child in self._children:
            if child.process.returncode is None:
                child.process.kill()
        # What a node has started may hold its standard error open, whoever has ended.
        ended = [child.process.wait() for child in self._children]
        with contextlib.suppress(TimeoutError):
            rest = asyncio.gather(*ended, *self._readers, return_exceptions=True)
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
    policy: Policy = joint_plan,
    status: Callable[[str], None] = lambda _line: None,
) -> AsyncIterator[tuple[LocalMesh, Client]]:
    """Start a mesh, wait until it can serve, and end it whatever happens inside.

    lookup: guess from the texts so far, too. listen: endpoint to bind; None binds a socket file in
    a directory only we can enter. limits: of the coordinator. role: what the client joins as.
    Raises NodeFailedError if a node does not come up.
    """
    ring = default_keyring(environment())
    with tempfile.TemporaryDirectory(prefix="airdraft-") as folder, ZmqContext() as context:
        endpoint = listen or f"ipc://{Path(folder) / secrets.token_hex(4)}"
        secured = ring.server_keys(endpoint)
        if secured is None:
            warn_of_others(endpoint)
        coordinator = Coordinator(
            context.bind(endpoint, secured),
            careful(policy),
            heartbeat_timeout_s=CoordinatorConfig().heartbeat_timeout_s,
            lookup=lookup,
            authorized=ring.authorized if secured is not None else None,
            next_key=ring.next_key_reader(secured),
            limits=limits,
        )
        mesh = LocalMesh(on_this_machine(coordinator.endpoint))
        mesh.status = status
        keys = ring.client_keys(mesh.endpoint) if secured is not None else None
        client = Client(context.connect(mesh.endpoint, keys), endpoint=mesh.endpoint, role=role)
        mesh.serving += [asyncio.create_task(coordinator.run()), asyncio.create_task(client.run())]
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        with last_act(remove), last_act(mesh.kill):
            try:
                await mesh.start("target", target)
                if draft is not None:
                    await mesh.start("draft", draft)
                mesh.serving.append(asyncio.create_task(mesh.watch()))
                wanted = {"target"} if draft is None else {"target", "draft"}
                await mesh.beside(_until_joined(client, wanted))
                mesh.is_up = True
                yield mesh, client
            finally:
                coordinator.say_bye()
                for task in mesh.serving:
                    task.cancel()
                await asyncio.gather(*mesh.serving, return_exceptions=True)
                await mesh.stop()


async def _until_joined(client: Client, wanted: set[str]) -> None:
    present: set[str] = set()
    while not wanted <= present:
        await asyncio.sleep(_POLL_S)
        present = {node.role for node in (await client.nodes()).nodes}
