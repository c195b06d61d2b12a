"""A whole mesh of real processes: started, killed, stopped and started again by name."""

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
    """Which processes there are, and how they are started.

    environ: of all of them, for settings. fresh: each in an interpreter of its own, for memory and
    for engines that do not bear a fork. Nodes wait for a coordinator as long as they must.
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
        """Role of each member by name, without the coordinator."""
        counts = {
            "target": self.num_targets,
            "draft": self.num_drafts,
            "gateway": self.num_gateways,
        }
        return {f"{role}-{k}": role for role, count in counts.items() for k in range(count)}


class Fleet:
    """The processes of one mesh by name: coordinator, target-0, draft-0, gateway-0 and so on.

    accidents: what ended though nobody here had told it to, and its last words. num_starts: by
    name.
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
        """Directory of a member's keys; `client` is everybody's who asks."""
        return self.folder / name

    def log(self, name: str) -> Path:
        """What the processes of a name have printed, the last one last."""
        return self.folder / f"{name}.log"

    def process(self, name: str) -> Process:
        """The present process of a name, or the last one."""
        return self._processes[name]

    def is_up(self, name: str) -> bool:
        """Whether it runs, be it stopped."""
        process = self._processes.get(name)
        return process is not None and process.code is None

    async def start(self, name: str, *arguments: str, **environ: str) -> Process:
        """Start a process (again), with more arguments and environment than its setup has."""
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
        """Run a command of a client, `generate` say, with the keys and endpoint of this mesh."""
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
        """What the mesh calls a node: its key's name and its own."""
        return f"{name}/{self.roles[name]}"

    async def kill(self, name: str) -> None:
        """SIGKILL, whether it is stopped or not; it is gone when this returns."""
        await self.process(name).kill()

    def stop(self, name: str) -> None:
        self.process(name).signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        self.process(name).signal(signal.SIGCONT)

    async def restart(self, name: str, pause_s: float = 0.0) -> Process:
        await self.kill(name)
        await asyncio.sleep(pause_s)
        return await self.start(name)

    def expect_end(self, name: str) -> None:
        """The present process of a name may end by itself: of a fail point, say."""
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
        path = self.log(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return " / ".join(lines[-_LAST_LINES:])

    @contextlib.asynccontextmanager
    async def clients(self, count: int, role: str = CLIENT) -> AsyncIterator[list[Client]]:
        """Connected clients of this process, which come back when the coordinator does."""
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
        """Until these nodes are in, all of the setup if none is named. Raises TimeoutError."""
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
    """A fleet whose processes have been started; all are gone, and its folder, at the end.

    starting: more environment of single processes at their first start, - written as _.
    """
    with tempfile.TemporaryDirectory(prefix="airdraft-chaos-") as folder:
        async with nursery() as nest:
            made = Fleet(nest, Path(folder), setup or Setup())
            for name in made.roles:
                await made.start(name, **starting.get(name.replace("-", "_"), {}))
            yield made
