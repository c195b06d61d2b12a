"""A mesh of up to four processes, and the time that each spent while some streams decoded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.up import started
from bench.load.asking import Endpoint, ask
from bench.load.processes import cpu_s
from bench.load.workloads import Workload
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.config.settings import EngineSettings
from nodes.service.supervision import engine_options

_STARTS_WITHIN_S = 300.0
_TELLS_WITHIN_S = 5.0
_POLL_S = 0.01
_CLOCKLESS = ("coordinator", "gateway")


class WhereError(RuntimeError):
    """The mesh does not serve; the text is one line."""


# Values of a node's clocks by name, as node.py writes them.
Clock = Mapping[str, float]


def since(before: Clock, after: Clock) -> Clock:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


@dataclass(frozen=True, slots=True)
class Window:
    """Times while all streams decoded. draft: None without a draft node. cpu_s: processor time of
    the processes without clocks, by role. rtt_s: round-trip time of heartbeats, by role.
    """

    num_streams: int
    target: Clock
    draft: Clock | None
    cpu_s: dict[str, float]
    rtt_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Mesh:
    """Processes by role, with access to the clocks of target and draft node. folder: of logs."""

    endpoint: str
    url: str
    processes: Mapping[str, subprocess.Popen[str]]
    folder: Path

    def ended(self) -> str:
        """Return the role of a process that has ended; "" if all run."""
        gone = (role for role, process in self.processes.items() if process.poll() is not None)
        return next(gone, "")

    async def clock(self, role: str) -> Clock | None:
        """Return the current values of a node's clocks; None if there is no such node."""
        if role not in self.processes:
            return None
        log = log_of(self.folder, role)
        length = log.stat().st_size if log.exists() else 0
        self.processes[role].send_signal(signal.SIGUSR2)
        async with asyncio.timeout(_TELLS_WITHIN_S):
            # A file's growth has no event to wait for.
            while not (log.exists() and log.read_bytes()[length:].endswith(b"\n")):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
        found: dict[str, float] = json.loads(log.read_bytes()[length:])
        return found

    def cpu_s(self) -> dict[str, float]:
        return {role: cpu_s([self.processes[role].pid]) for role in _CLOCKLESS}


def log_of(folder: Path, role: str) -> Path:
    return folder / f"{role}.clocks"


async def windows(
    target: EngineSettings,
    draft: EngineSettings | None,
    made: Workload,
    counts: Sequence[int],
    max_tokens: int,
    note: Callable[[str], None],
) -> list[Window]:
    """Measure a window for each number of streams. draft: None to decode plainly.

    Raises WhereError if the mesh does not serve.
    """
    engines = {"target": target} | ({"draft": draft} if draft is not None else {})
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="airdraft-where-") as name,
        ZmqContext() as context,
        _processes(engines, Path(name)) as mesh,
    ):
        client = Client(context.connect(mesh.endpoint, None), endpoint=mesh.endpoint)
        task = asyncio.create_task(client.run())
        try:
            await _until_joined(mesh, client, set(engines))
            for count in counts:
                note(f"{count} streams{'' if draft is not None else ', plainly'}")
                found.append(await _window(mesh, client, made, count, max_tokens))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return found


@contextlib.contextmanager
def _processes(engines: dict[str, EngineSettings], folder: Path) -> Iterator[_Mesh]:
    with contextlib.ExitStack() as stack:

        def start(role: str, *options: str, **environ: str) -> str:
            """Start a process; return the address that it prints, or "" for a node."""
            module: tuple[str, ...] = ("nodes.cli",)
            if role in engines:
                module = ("bench.where.node", str(log_of(folder, role)))
            process = stack.enter_context(
                started(role, *options, keys=folder, environ=environ, module=module)
            )
            processes[role] = process
            assert process.stdout is not None
            line = "" if role in engines else process.stdout.readline().strip()
            return line.rpartition(" ")[2]

        processes: dict[str, subprocess.Popen[str]] = {}
        looks_up = str("draft" in engines).lower()
        listen = f"ipc://{folder}/mesh"
        endpoint = start("coordinator", "--listen", listen, AIRDRAFT_PROMPT_LOOKUP=looks_up)
        for role, engine in engines.items():
            start(role, "--connect", endpoint, *engine_options(engine))
        url = start("gateway", "--connect", endpoint, "--listen", "127.0.0.1:0")
        yield _Mesh(endpoint, url, processes, folder)


async def _until_joined(mesh: _Mesh, client: Client, wanted: set[str]) -> None:
    try:
        async with asyncio.timeout(_STARTS_WITHIN_S):
            while not client.is_joined or not wanted <= set(await _rtt_s(client)):
                if role := mesh.ended():
                    raise WhereError(f"the {role} process has ended; see its message above")
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise WhereError(f"nodes did not join within {_STARTS_WITHIN_S:g} s") from None


async def _rtt_s(client: Client) -> dict[str, float]:
    return {node.role: node.rtt_us * 1e-6 for node in (await client.nodes()).nodes}


async def _window(
    mesh: _Mesh, client: Client, made: Workload, count: int, max_tokens: int
) -> Window:
    endpoint = Endpoint(url=mesh.url, model="")
    prompts = [made.prompts[k % len(made.prompts)] for k in range(count)]

    async def request(prompt: str, length: int, heard: Callable[[], None]) -> None:
        found = await ask(endpoint, prompt, max_tokens=length, temperature=0.0, seed=1, heard=heard)
        if found.error:
            raise WhereError(f"a request failed: {found.error}")

    # The target reads the prompts beforehand, so that only decoding is timed.
    for prompt in dict.fromkeys(prompts):
        await request(prompt, 2, lambda: None)
    all_decode, one_is_done = asyncio.Event(), asyncio.Event()
    silent = set(range(count))

    def heard(number: int) -> None:
        silent.discard(number)
        if not silent:
            all_decode.set()

    async def stream(number: int) -> None:
        await request(prompts[number], max_tokens, lambda: heard(number))
        one_is_done.set()

    async def observed() -> Window:
        await all_decode.wait()
        target, draft = await mesh.clock("target"), await mesh.clock("draft")
        before = mesh.cpu_s()
        began = time.perf_counter()
        await one_is_done.wait()
        cpu = {role: s - before[role] for role, s in mesh.cpu_s().items()}
        seconds = time.perf_counter() - began
        target_after, draft_after = await mesh.clock("target"), await mesh.clock("draft")
        assert target is not None
        assert target_after is not None
        found = since(target, target_after)
        return Window(
            count,
            found,
            since(draft, draft_after) if draft is not None and draft_after is not None else None,
            # Scaled to the time between the two readings of the target's clocks.
            {role: s * found["at"] / seconds for role, s in cpu.items()},
            await _rtt_s(client),
        )

    async with asyncio.TaskGroup() as group:
        window = group.create_task(observed())
        for number in range(count):
            group.create_task(stream(number))
    return window.result()
