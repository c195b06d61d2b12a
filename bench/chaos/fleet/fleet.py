"""A whole mesh of real processes that can be started, killed and stopped by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos.fleet.keys import CLIENT, COORDINATOR, free_port, make_keys
from bench.chaos.fleet.processes import Nursery, Process, nursery
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client, RequestFailedError
from nodes.keys.keyring import Keyring

_UP_LIMIT_S = 60.0
_POLL_S = 0.02
_LAST_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Which processes a fleet has, and how they are started.

    environ: settings for all of them. fresh: run each in an interpreter of its own, to measure
    memory and for engines that do not survive a fork. Nodes wait an hour for a coordinator.
    """

    num_targets: int = 2
    num_drafts: int = 2
    num_gateways: int = 0
    target_model: str = "toy:1"
    draft_model: str = "toy:0.8"
    cells: int = 8192
    max_streams: int = 16
    environ: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False

    @property
    def roles(self) -> dict[str, str]:
        """The role of each member by name, without the coordinator."""
        counts = {
            "target": self.num_targets,
            "draft": self.num_drafts,
            "gateway": self.num_gateways,
        }
        return {f"{role}-{k}": role for role, count in counts.items() for k in range(count)}


class Fleet:
    """The processes of one mesh by name: coordinator, target-0, draft-0, gateway-0 and so on.

    accidents: processes that ended unexpectedly, each with its last log lines. num_starts: starts
    by name.
    """

    def __init__(self, nest: Nursery, folder: Path, setup: Setup) -> None:
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.folder = folder
        self.setup = setup
        self.roles = {COORDINATOR: COORDINATOR, **setup.roles}
        self.accidents: list[str] = []
        self.num_starts = Counter[str]()
        self._nest = nest
        self._processes: dict[str, Process] = {}
        self._awaited: set[Process] = set()
        nest.on_end = self._ended
        make_keys(folder, self.endpoint, setup.roles)

    def keys(self, name: str) -> Path:
        """Return the directory of a member's keys; all clients share that of `client`."""
        return self.folder / name

    def log(self, name: str) -> Path:
        """Return the file with the output of all processes of a name, in order of their starts."""
        return self.folder / f"{name}.log"

    def process(self, name: str) -> Process:
        """Return the present process of a name, or the last one."""
        return self._processes[name]

    def is_up(self, name: str) -> bool:
        """Return whether the process exists; one that SIGSTOP has stopped counts."""
        process = self._processes.get(name)
        return process is not None and process.code is None

    async def start(self, name: str, *arguments: str, **environ: str) -> Process:
        """Start a process (again), with arguments and environment added to those of the setup."""
        assert not self.is_up(name), f"{name} runs already"
        process = await self._nest.start(
            [*self._argv(name), *arguments],
            {
                **os.environ,
                "AIRDRAFT_JOIN_TIMEOUT_S": "3600",
                **self.setup.environ,
                **environ,
            },
            self.log(name),
            fresh=self.setup.fresh,
        )
        self._processes[name] = process
        self.num_starts[name] += 1
        return process

    async def start_command(self, name: str, *argv: str, **environ: str) -> Process:
        """Run a client command such as `generate` with the keys and endpoint of this mesh."""
        link = ("--keys", str(self.keys(CLIENT)), "--connect", self.endpoint)
        process = await self._nest.start(
            [*argv, *link], {**os.environ, **environ}, self.log(name), fresh=self.setup.fresh
        )
        self._processes[name] = process
        return process

    def _argv(self, name: str) -> list[str]:
        role, setup = self.roles[name], self.setup
        argv = [role, "-v", "--keys", str(self.keys(name))]
        if role == COORDINATOR:
            return [*argv, "--listen", self.endpoint]
        argv += ["--connect", self.endpoint]
        if role == "gateway":
            return [*argv, "--listen", "127.0.0.1:0"]
        model = setup.target_model if role == "target" else setup.draft_model
        sizes = ("--cells", str(setup.cells), "--max-streams", str(setup.max_streams))
        return [*argv, "--name", role, "--model", model, *sizes]

    def node(self, name: str) -> str:
        """Return a node's name in the mesh: the name of its key, a slash, and its own name."""
        return f"{name}/{self.roles[name]}"

    async def kill(self, name: str) -> None:
        """Send SIGKILL, which also ends a stopped process, and wait until the process is gone."""
        await self.process(name).kill()

    def stop(self, name: str) -> None:
        """Send SIGSTOP."""
        self.process(name).signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Send SIGCONT."""
        self.process(name).signal(signal.SIGCONT)

    async def restart(self, name: str, pause_s: float = 0.0) -> Process:
        """Kill a process and start it again after a pause."""
        await self.kill(name)
        await asyncio.sleep(pause_s)
        return await self.start(name)

    def expect_end(self, name: str) -> None:
        """Allow the present process of a name to end by itself, for instance at a fail point."""
        self._awaited.add(self.process(name))

    def _ended(self, process: Process) -> None:
        was_killed = process.was_ended and process.code == -signal.SIGKILL
        if was_killed or process in self._awaited:
            self._awaited.discard(process)
            return
        name = next((n for n, known in self._processes.items() if known is process), "a process")
        code = process.code or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.accidents.append(f"{name} ended by itself ({how}): {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """Return the last lines of a name's log."""
        path = self.log(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return " / ".join(lines[-_LAST_LINES:])

    @contextlib.asynccontextmanager
    async def clients(self, count: int, role: str = CLIENT) -> AsyncIterator[list[Client]]:
        """Open clients in this process, which rejoin when the coordinator is back."""
        keys = Keyring(self.keys(CLIENT)).client_keys(self.endpoint)
        with ZmqContext() as context:
            made = [
                Client(
                    context.connect(self.endpoint, keys),
                    endpoint=self.endpoint,
                    join_timeout_s=None,
                    rejoins=True,
                    role=role,
                )
                for _ in range(count)
            ]
            running = [asyncio.create_task(client.run()) for client in made]
            try:
                yield made
            finally:
                for client, task in zip(made, running, strict=True):
                    client.close()
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def wait_for(self, client: Client, *names: str, limit_s: float = _UP_LIMIT_S) -> None:
        """Wait until these nodes are members, all nodes if none is named. Raises TimeoutError."""
        roles = self.setup.roles
        wanted = {self.node(n) for n in names or roles if self.roles[n] != "gateway"}
        async with asyncio.timeout(limit_s):
            present: set[str] = set()
            while not wanted <= present:
                await asyncio.sleep(_POLL_S)
                with contextlib.suppress(RequestFailedError):
                    present = {n.node for n in (await client.nodes()).nodes}


@contextlib.asynccontextmanager
async def fleet(setup: Setup | None = None, **starting: Mapping[str, str]) -> AsyncIterator[Fleet]:
    """Start a fleet; at the end all its processes are ended and its folder is removed.

    starting: environment to add at the first start of single processes, by their names with _ in
    place of -.
    """
    with tempfile.TemporaryDirectory(prefix="airdraft-chaos-") as folder:
        async with nursery() as nest:
            made = Fleet(nest, Path(folder), setup or Setup())
            for name in made.roles:
                await made.start(name, **starting.get(name.replace("-", "_"), {}))
            yield made
