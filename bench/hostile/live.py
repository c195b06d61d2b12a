"""A coordinator with keys in a process of its own, and a client that keeps sending requests."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.keys import ClientKeys, KeyPair, write_private
from mesh.security import new_key_pair
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.keys.keyring import Keyring
from nodes.messages.access import ROLES

_START_LIMIT_S = 120.0
_ASK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Live:
    """A running coordinator. own: the key pair of a client that may connect."""

    endpoint: str
    pid: int
    server_key: str
    own: KeyPair

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def keys(self, own: KeyPair | None = None) -> ClientKeys:
        return ClientKeys(own or self.own, self.server_key)

    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise OSError("no VmRSS")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextlib.asynccontextmanager
async def live_coordinator(
    folder: Path, pairs: Sequence[KeyPair], max_files: int | None = None
) -> AsyncIterator[Live]:
    """Run a coordinator on loopback with keys.

    pairs: all authorized key pairs; the first one becomes `own`. max_files: limit of open files.
    """
    ring = Keyring(folder)
    server = ring.make_coordinator_pair()
    roles = ", ".join(f'"{role}"' for role in sorted(ROLES))
    entries = [
        f'[[node]]\nkey = "{pair.public}"\nname = "n{number}"\nroles = [{roles}]\n'
        for number, pair in enumerate(pairs)
    ]
    write_private(folder / "authorized_nodes.toml", "".join(entries))
    limits = "" if max_files is None else f"ulimit -n {max_files}; "
    command = f'{limits}exec "$0" -m nodes.cli coordinator --listen tcp://127.0.0.1:0 --keys "$1"'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, sys.executable, str(folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), _START_LIMIT_S)
        yield Live(line.decode().split()[-1], process.pid, server.public, pairs[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@dataclass(slots=True)
class Asked:
    """Round trips of the client, and the time that it took to join."""

    times_s: list[float]
    joined_s: float = 0.0

    def __str__(self) -> str:
        times = sorted(self.times_s)
        if not times:
            return "no answers"
        p50, p99 = times[len(times) // 2], times[int(0.99 * (len(times) - 1))]
        return (
            f"{len(times)} answers, median {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
            f"longest {times[-1] * 1e3:.1f} ms"
        )


@contextlib.asynccontextmanager
async def asking(live: Live) -> AsyncIterator[Asked]:
    """Run an authorized client that sends requests during the block; it joins before it."""
    asked = Asked([])
    with ZmqContext() as context:
        client = Client(
            context.connect(live.endpoint, live.keys()), endpoint=live.endpoint, rejoins=True
        )
        started = time.perf_counter()
        running = asyncio.create_task(client.run())
        await client.nodes()
        asked.joined_s = time.perf_counter() - started
        loop = asyncio.create_task(_ask(client, asked))
        try:
            yield asked
        finally:
            for task in (loop, running):
                task.cancel()
            await asyncio.gather(loop, running, return_exceptions=True)


async def _ask(client: Client, asked: Asked) -> None:
    while True:
        start = time.perf_counter()
        await client.nodes()
        asked.times_s.append(time.perf_counter() - start)
        await asyncio.sleep(_ASK_EVERY_S)


def new_pairs(count: int) -> list[KeyPair]:
    return [new_key_pair() for _ in range(count)]
