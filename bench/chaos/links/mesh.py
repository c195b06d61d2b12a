"""A mesh with its members at the places of an emulated cell: real processes, keys and TCP.

Models are replayed (`nodes/engine/replay.py`), so passes take as long as on other devices. The
recording is the undisturbed run with which texts are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.chaos.links.clients import Heard
from bench.chaos.links.log import Change, MemberLog
from bench.emulate.open import Places
from bench.emulate.tun import HUB
from mesh.authorized import Entry
from mesh.keys import KnownCoordinator
from nodes.config.settings import environment
from nodes.keys.keyring import Keyring

T = TypeVar("T")
Process = asyncio.subprocess.Process

_EMULATED = Path(__file__).parents[2] / "emulate"
_COORDINATOR = "coordinator"
RECORDING = _EMULATED / "recordings" / "smollm2-135m.json.z"
TARGET = _EMULATED / "nodes" / "agx-orin-llama-3.1-8b.toml"
DRAFT = _EMULATED / "nodes" / "orin-nano-qwen2.5-0.5b.toml"
MAX_STREAMS = 32
START_LIMIT_S = 60.0
_STOP_LIMIT_S = 5.0
_GUESSES_LIMIT_S = 120.0
_POLL_S = 0.01
_GUESSES_POLL_S = 0.2
# The join timeout allows for a link that is bad when a node starts. Prompt lookup depends on no
# link and makes texts unequally fast, so it is off.
_SETTINGS = {"AIRDRAFT_JOIN_TIMEOUT_S": "60", "AIRDRAFT_PROMPT_LOOKUP": "false"}
_LONGEST_LINE = 1 << 26


class LinkMeshError(RuntimeError):
    """A process of the mesh ended, or an expected event did not happen; the text names it."""


@dataclass(slots=True)
class Clients:
    """The client process of a place."""

    process: Process

    async def heard(self) -> Heard:
        """Return what its streams have received since the last call. Raises LinkMeshError."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"heard\n")
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), START_LIMIT_S)
        if not line:
            raise LinkMeshError(f"clients have ended with status {await self.process.wait()}")
        return Heard(**json.loads(line))

    async def until_guesses(self) -> None:
        """Wait until several tokens come at a time, which only accepted guesses cause."""
        async with asyncio.timeout(_GUESSES_LIMIT_S):
            counts: set[int] = set()
            while not counts - {1}:
                await asyncio.sleep(_GUESSES_POLL_S)
                counts = {count for _, count in (await self.heard()).tokens_at}


class LinkMesh:
    """Members by name, each in a process at a place of the cell."""

    def __init__(self, places: Places, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self._places = places
        self.log = MemberLog()
        self._folder, self._stack = folder, stack
        self._processes: dict[str, Process] = {}
        self._hub = Keyring(folder / "hub")
        # A coordinator does not start without any authorized key.
        entry = Entry(self._hub.make_own().public, "hub", frozenset({"admin"}))
        self._hub.authorized().add(entry)
        self._server_key = self._hub.make_coordinator_pair().public
        self._port = 0

    async def start_coordinator(self) -> None:
        listen = ["--listen", f"tcp://{self._places.hub_host}:0"]
        keys = ["--keys", str(self._hub.directory), "-v"]
        process = await self._start(
            _COORDINATOR, HUB, ["-m", "nodes.cli", "coordinator", *listen, *keys], is_heard=True
        )
        await self._stack.enter_async_context(beside(self._read_log(process)))
        line = await self._next_line(_COORDINATOR)
        self._port = int(line.rpartition(":")[2])

    async def start_node(self, role: str, name: str, place: str) -> float:
        """Start a target or draft node without waiting until it joins; return the time."""
        ring, endpoint = await self._member(role, name, place)
        model = TARGET if role == "target" else DRAFT
        at = self.now()
        options = ["--name", name, "--keys", str(ring.directory), "--connect", endpoint]
        engine = ["--model", f"replay:{model}", "--max-streams", str(MAX_STREAMS)]
        await self._start(name, place, ["-m", "nodes.cli", role, *options, *engine])
        return at

    async def start_clients(self, name: str, place: str, num_streams: int, first: int) -> Clients:
        """Start streams that request texts of the recording for ever, from index `first` on."""
        ring, endpoint = await self._member("client", name, place)
        arguments = [endpoint, str(ring.directory), str(RECORDING), str(num_streams), str(first)]
        process = await self._start(
            name, place, ["-m", "bench.chaos.links.clients", *arguments], is_heard=True
        )
        await self._next_line(name)
        return Clients(process)

    def now(self) -> float:
        """Return the time on the machine's monotonic clock."""
        return asyncio.get_running_loop().time()

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def has_process(self, name: str) -> bool:
        """Return whether the process was started and has not ended."""
        process = self._processes.get(name)
        return process is not None and process.returncode is None

    async def kill(self, name: str) -> float:
        """Send SIGKILL, wait for the end, and return the time of the signal."""
        process, at = self._processes.pop(name), self.now()
        process.kill()
        await process.wait()
        return at

    async def has_joined(self, name: str, since: float, limit_s: float = START_LIMIT_S) -> Change:
        """Wait until a node has joined at `since` or later. Raises LinkMeshError."""
        return await self._change(name, since, limit_s, has_left=False)

    async def has_left(self, name: str, since: float, limit_s: float) -> Change:
        """Wait until a node has left at `since` or later. Raises LinkMeshError."""
        return await self._change(name, since, limit_s, has_left=True)

    async def _change(self, name: str, since: float, limit_s: float, *, has_left: bool) -> Change:
        what = f"{name} has not {'left' if has_left else 'joined'} within {limit_s:g} s"
        return await until(lambda: self.log.first(name, since, has_left=has_left), limit_s, what)

    async def are_in(self, names: list[str], limit_s: float = START_LIMIT_S) -> None:
        """Wait until all of these nodes are members. Raises LinkMeshError."""

        def all_in() -> bool | None:
            for name in names:
                self._check_runs(name)
            return all(map(self.log.is_in, names)) or None

        what = f"{', '.join(names)} have not all joined within {limit_s:g} s"
        await until(all_in, limit_s, what)

    def check_all_run(self) -> None:
        """Raise LinkMeshError if any process has ended by itself."""
        for name in list(self._processes):
            self._check_runs(name)

    def _check_runs(self, name: str) -> None:
        """Raise LinkMeshError if the process has ended and was not killed by `kill`."""
        if name in self._processes and not self.has_process(name):
            errors = (self._folder / f"{name}.err").read_text(errors="replace").splitlines()
            raise LinkMeshError(f"{name} has ended: {errors[-1] if errors else 'no error output'}")

    async def _next_line(self, name: str) -> str:
        """Return the next line of a process's output."""
        output = self._processes[name].stdout
        assert output is not None
        line = await asyncio.wait_for(output.readline(), START_LIMIT_S)
        if not line:
            await self._processes[name].wait()
            self._check_runs(name)
        return line.decode()

    async def _member(self, role: str, name: str, place: str) -> tuple[Keyring, str]:
        """Return the keyring of a member and the coordinator's endpoint as seen from its place."""
        ring = Keyring(self._folder / name)
        if ring.own() is None:
            entry = Entry(ring.make_own().public, name, frozenset({role}))
            self._hub.authorized().add(entry)
        host, port = self._places.hub_host, self._port
        if place != HUB:
            host, port = await self._places.dial(place, port)
        endpoint = f"tcp://{host}:{port}"
        ring.keep_coordinator(KnownCoordinator(endpoint, self._server_key))
        return ring, endpoint

    async def _start(
        self, name: str, place: str, arguments: list[str], *, is_heard: bool = False
    ) -> Process:
        """Start a process. is_heard: connect pipes to its standard input and output.

        Standard error goes to a file, for the coordinator to a pipe.
        """
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        argv = self._places.command(place, [sys.executable, *arguments])
        with (self._folder / f"{name}.err").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=pipe if is_heard else nothing,
                stdout=pipe if is_heard else nothing,
                stderr=pipe if name == _COORDINATOR else errors,
                limit=_LONGEST_LINE,
                env={**environment(), **_SETTINGS},
            )
        self._processes[name] = process
        self._stack.push_async_callback(_ended, process)
        return process

    async def _read_log(self, coordinator: Process) -> None:
        assert coordinator.stderr is not None
        with (self._folder / f"{_COORDINATOR}.err").open("wb") as kept:
            async for line in coordinator.stderr:
                self.log.read(line.decode("utf-8", "replace"), self.now())
                kept.write(line)
                kept.flush()


@contextlib.asynccontextmanager
async def link_mesh(places: Places) -> AsyncIterator[LinkMesh]:
    """Open a mesh and start its coordinator; all of its processes end with the block."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="airdraft-links-"))
        mesh = LinkMesh(places, Path(folder), stack)
        await mesh.start_coordinator()
        yield mesh
        mesh.check_all_run()


async def until(found: Callable[[], T | None], limit_s: float, what: str) -> T:
    """Poll until `found` returns a value, and return it. Raises LinkMeshError with text `what`."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + limit_s
    while (value := found()) is None:
        if clock() > give_up_at:
            raise LinkMeshError(what)
        await asyncio.sleep(_POLL_S)
    return value


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine until the end of the block; raise its error if it has ended with one."""
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _ended(process: Process) -> None:
    """Stop a process by SIGTERM, and by SIGKILL after a limit."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
