"""A whole mesh of real processes that can be started, killed and stopped by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import httpx

from airdraft.mesh.authorized import Entry
from airdraft.mesh.keys import KnownCoordinator
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.messages.access import CLIENT_ROLES
from bench.harness.http import http_client
from bench.harness.members import MemberLog
from bench.harness.processes import HUB, PROGRAM, ROOT, Places, Process, free_port

T = TypeVar("T")

COORDINATOR: Final = "coordinator"
CLIENT: Final = "client"
UP_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 120.0
_POLL_S: Final = 0.02
_ANSWER_LIMIT_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.002
_LAST_LINES: Final = 3
# What a member logs then (nodes/worker/connection.py).
_LOST: Final = b": the coordinator at "


class FleetError(RuntimeError):
    """A process ended by itself, or an expected event did not happen; the text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Which processes a fleet has, and how they are started.

    environ: settings for all of them. fresh: run each in an interpreter of its own, to measure
    memory and for engines that do not survive a fork. over: TCP with or without keys, or a socket
    of this machine. Nodes wait an hour for a coordinator.
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
    over: Literal["tcp-keys", "tcp", "ipc"] = "tcp-keys"

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

    accidents: processes that ended unexpectedly, each with its last log lines. log_of_members: what
    the coordinator says of targets and draft nodes.
    """

    def __init__(self, folder: Path, setup: Setup, places: Places | None = None) -> None:
        self.folder = folder
        self.setup = setup
        self.roles = {COORDINATOR: COORDINATOR, **setup.roles}
        self.accidents: list[str] = []
        self._client_has_waited = asyncio.Event()
        self._places = places or Places()
        self._port = free_port()
        self._gateways = {name: free_port() for name, r in setup.roles.items() if r == "gateway"}
        self._processes: dict[str, Process] = {}
        self._awaited: set[Process] = set()
        self.endpoint = f"tcp://{self._places.hub_host}:{self._port}"
        if setup.over == "ipc":
            self.endpoint = f"ipc://{folder}/mesh.sock"
        now = asyncio.get_running_loop().time
        self.log_of_members = MemberLog(self.log(COORDINATOR), lambda: time.time() - now())
        if self.has_keys:
            make_keys(folder, self.endpoint, setup.roles)

    @property
    def has_keys(self) -> bool:
        return self.setup.over == "tcp-keys"

    def keys(self, name: str) -> Path:
        """Returns the directory of a member's keys; all clients share that of `client`."""
        return self.folder / name

    def log(self, name: str) -> Path:
        """Returns the file with the output of all processes of a name, in order of their starts."""
        return self.folder / f"{name}.log"

    def process(self, name: str) -> Process:
        """Returns the present process of a name, or the last one."""
        return self._processes[name]

    def port(self, gateway: str) -> int:
        """Returns the port of a gateway's API, which it keeps when it is restarted."""
        return self._gateways[gateway]

    def url(self, gateway: str) -> str:
        return f"http://127.0.0.1:{self.port(gateway)}/v1"

    def is_up(self, name: str) -> bool:
        """Returns whether the process exists; one that SIGSTOP has stopped counts."""
        process = self._processes.get(name)
        return process is not None and process.code is None

    async def start(
        self,
        name: str,
        *arguments: str,
        place: str = HUB,
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> Process:
        """Start a process (again), with arguments and environment added to those of the setup.

        `client` runs `airdraft generate`. place: of the fleet's places. prefix: command that runs
        the process.
        """
        # Only a command that begins with our program goes on in a fork.
        alone = ("env",) if self.setup.fresh else ()
        command = [*alone, *prefix, *PROGRAM, *await self._argv(name, place), *arguments]
        return self._start(name, place, command, environ)

    def start_module(self, name: str, module: str, *arguments: object) -> Process:
        """Run a module of the bench at the hub, with endpoint and keys as first arguments."""
        words = map(str, (self.endpoint, self.keys(CLIENT), *arguments))
        return self._start(name, HUB, [sys.executable, "-m", module, *words])

    def _start(
        self,
        name: str,
        place: str,
        command: Sequence[str],
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> Process:
        assert not self.is_up(name), f"{name} runs already"
        process = Process(
            self._places.command(place, command),
            {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "AIRDRAFT_JOIN_TIMEOUT_S": "3600",
                # The keys of whoever runs this must not matter.
                "AIRDRAFT_KEYS": str(self.folder / "none"),
                **self.setup.environ,
                **environ,
            },
            self.log(name),
            on_end=self._ended,
        )
        self._processes[name] = process
        return process

    async def _argv(self, name: str, place: str) -> list[str]:
        setup = self.setup
        role = self.roles.get(name, name)
        argv = ["generate"] if role == CLIENT else [role, "-v"]
        if self.has_keys:
            argv += ["--keys", str(self.keys(name))]
        if role == COORDINATOR:
            return [*argv, "--listen", self.endpoint]
        argv += ["--connect", await self._endpoint(name, place)]
        if role == "gateway":
            argv += ["--listen", f"127.0.0.1:{self.port(name)}"]
        elif role != CLIENT:
            model = setup.target_model if role == "target" else setup.draft_model
            argv += ["--name", name, "--model", model]
            argv += ["--cells", str(setup.cells), "--max-streams", str(setup.max_streams)]
        return argv

    async def _endpoint(self, name: str, place: str) -> str:
        """Returns the coordinator's endpoint as seen from a place where the member may go."""
        if place == HUB:
            return self.endpoint
        host, port = await self._places.dial(place, self._port)
        endpoint = f"tcp://{host}:{port}"
        server = Keyring(self.keys(COORDINATOR)).coordinator_pair()
        assert server is not None
        Keyring(self.keys(name)).keep_coordinator(KnownCoordinator(endpoint, server.public))
        return endpoint

    def node(self, name: str) -> str:
        """Returns a node's name in the mesh: with keys, the name of its key and a slash before."""
        return f"{name}/{name}" if self.has_keys else name

    async def kill(self, name: str) -> float:
        """Send SIGKILL, which also ends a stopped process, wait for its end, and return the time.

        The time is that of the signal, on the clock of the event loop.
        """
        at = self.now()
        await self.process(name).kill()
        return at

    async def terminate(self, name: str) -> int:
        """Send SIGTERM, as a supervisor does; return the exit code. Raises FleetError if late."""
        self.expect_end(name)
        process = self.process(name)
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                await process.ended.wait()
        except TimeoutError:
            await process.kill()
            raise FleetError(f"{name} did not end within {_STOP_LIMIT_S:g} s") from None
        assert process.code is not None
        return process.code

    async def end(self) -> None:
        """Kill all processes."""
        await asyncio.gather(*(process.kill() for process in self._processes.values()))

    def expect_end(self, name: str) -> None:
        """Allow the present process of a name to end by itself, for instance at a fail point."""
        self._awaited.add(self.process(name))

    def _ended(self, process: Process) -> None:
        was_killed = process.was_killed and process.code == -signal.SIGKILL
        if was_killed or process in self._awaited:
            self._awaited.discard(process)
            return
        name = next((n for n, known in self._processes.items() if known is process), "a process")
        code = process.code or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.accidents.append(f"{name} ended by itself ({how}): {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """Returns the last lines of a name's log."""
        path = self.log(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return " / ".join(lines[-_LAST_LINES:])

    def now(self) -> float:
        """Returns the time on the machine's monotonic clock."""
        return asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def clients(
        self, count: int, role: str = CLIENT, place: str = HUB
    ) -> AsyncIterator[list[MeshClient]]:
        """Open clients in this process, which rejoin when the coordinator is back.

        place: where their connections begin.
        """
        endpoint = await self._endpoint(CLIENT, place)
        keys = Keyring(self.keys(CLIENT)).client_keys(endpoint) if self.has_keys else None
        options: dict[str, Any] = {"join_timeout_s": None, "rejoins": True, "role": role}
        options["on_waiting"] = self._client_has_waited.set
        with ZmqContext() as context:
            with self._places.entered(place):
                made = [
                    MeshClient(context.connect(endpoint, keys), endpoint=endpoint, **options)
                    for _ in range(count)
                ]
            async with contextlib.AsyncExitStack() as stack:
                for client in made:
                    await stack.enter_async_context(client.running())
                yield made

    def has_lost_coordinator(self) -> bool:
        """Whether any node, gateway or client of the mesh has lost its coordinator so far.

        A machine that stands still for some seconds does that. What a client is told about the
        mesh depends on it from then on, until all have joined again.
        """
        logs = (self.log(name) for name in self.setup.roles)
        found = (_LOST in log.read_bytes() for log in logs if log.exists())
        return self._client_has_waited.is_set() or any(found)

    async def wait_for(self, client: MeshClient) -> None:
        """Wait until all nodes are members. Raises FleetError."""
        wanted = {self.node(name) for name, role in self.setup.roles.items() if role != "gateway"}
        missing = wanted
        give_up_at = self.now() + UP_LIMIT_S
        while missing:
            if self.now() > give_up_at:
                names = ", ".join(sorted(missing))
                raise FleetError(f"{names} have not joined within {UP_LIMIT_S:g} s")
            await asyncio.sleep(_POLL_S)
            with contextlib.suppress(RequestFailedError, TimeoutError):
                async with asyncio.timeout_at(give_up_at):
                    missing = wanted - {node.node for node in (await client.nodes()).nodes}

    async def wait_ready(self, gateway: str, limit_s: float = UP_LIMIT_S) -> int:
        """Wait until a gateway can serve and return its port. Raises FleetError."""
        give_up_at = self.now() + limit_s
        async with http_client(self.port(gateway), _ANSWER_LIMIT_S) as http:
            while self.now() < give_up_at:
                # It does not listen yet, or has ended within the answer.
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get("/readyz")).status_code == 200:
                        return self.port(gateway)
                await asyncio.sleep(_POLL_S)
        raise FleetError(f"{gateway} is not ready within {limit_s:g} s")

    async def until(self, found: Callable[[], T | None], limit_s: float, what: str) -> T:
        """Poll until `found` returns something true, and return it.

        Raises FleetError with text `what` after the limit, or if a process has ended by itself.
        """
        give_up_at = self.now() + limit_s
        while not (value := found()):
            self.check()
            if self.now() > give_up_at:
                raise FleetError(f"{what} within {limit_s:g} s")
            await asyncio.sleep(_LOOK_EVERY_S)
        return value

    async def wait_printed(self, name: str, limit_s: float = UP_LIMIT_S) -> None:
        """Wait until a process has printed a line. Raises FleetError."""
        log, what = self.log(name), f"{name} has not begun"
        await self.until(lambda: log.exists() and log.stat().st_size, limit_s, what)

    def check(self) -> None:
        """Raise FleetError if a process has ended by itself."""
        if self.accidents:
            raise FleetError(self.accidents[0])

    async def wait_changed(
        self, name: str, since: float, *, has_left: bool, limit_s: float = UP_LIMIT_S
    ) -> float:
        """Wait until a node has left or joined at `since` or later, and return when.

        Raises FleetError.
        """
        log = self.log_of_members
        what = f"{name} has not {'left' if has_left else 'joined'}"
        found = await self.until(lambda: log.first(name, since, has_left=has_left), limit_s, what)
        return found.at

    async def wait_joined(self, *names: str, limit_s: float = UP_LIMIT_S) -> None:
        """Wait until these nodes are members by the coordinator's log. Raises FleetError."""
        what = f"{', '.join(names)} have not all joined"
        await self.until(lambda: all(map(self.log_of_members.is_in, names)), limit_s, what)


def make_keys(folder: Path, endpoint: str, roles: Mapping[str, str]) -> None:
    """Create key directories below `folder` for the coordinator, each member and the client.

    roles: the role of each member, by name. They are as `airdraft keys` and `join` write them.
    """
    Keyring(folder / COORDINATOR).make_coordinator_pair()
    members = {name: frozenset({role}) for name, role in roles.items()} | {CLIENT: CLIENT_ROLES}
    add_keys(folder, endpoint, members)


def add_keys(folder: Path, endpoint: str, members: Mapping[str, frozenset[str]]) -> None:
    """Create the key directories of more members. members: the roles of each, by name."""
    server = Keyring(folder / COORDINATOR)
    pair, authorized = server.coordinator_pair(), server.authorized()
    assert pair is not None
    for name, allowed in members.items():
        ring = Keyring(folder / name)
        authorized.add(Entry(ring.make_own().public, name, allowed))
        ring.keep_coordinator(KnownCoordinator(endpoint, pair.public))


@contextlib.asynccontextmanager
async def fleet(
    setup: Setup | None = None, *, places: Places | None = None, starts: Sequence[str] | None = None
) -> AsyncIterator[Fleet]:
    """Open a fleet; at the end all its processes are ended and its folder is removed.

    starts: names of the processes that are started at once; by default all.
    """
    with tempfile.TemporaryDirectory(prefix="airdraft-bench-") as folder:
        made = Fleet(Path(folder), setup or Setup(), places)
        try:
            for name in made.roles if starts is None else starts:
                await made.start(name)
            yield made
        finally:
            await made.end()
