"""The processes of a mesh with two gateways, which are stopped by SIGTERM and started by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client, RequestFailedError

_ROOT: Final = Path(__file__).parents[3]
# A process that has not ended by then is killed and counts as a fault.
_STOP_LIMIT_S: Final = 120.0
_UP_LIMIT_S: Final = 60.0
_POLL_S: Final = 0.02
# A gateway that stops cuts streams after this time; they continue at the other gateway.
_GATEWAY_STOP_S: Final = "0.3"
COORDINATOR: Final = "coordinator"
ROLES: Final = {
    COORDINATOR: COORDINATOR,
    "target-0": "target",
    "target-1": "target",
    "draft-0": "draft",
    "gateway-0": "gateway",
    "gateway-1": "gateway",
}


@dataclass(slots=True)
class _Member:
    process: asyncio.subprocess.Process
    # The address it listens on, which every restart keeps.
    address: str = ""


class Members:
    """The processes by name. faults: processes that ended by themselves, late or with an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: dict[str, _Member] = {}
        self.faults: list[str] = []

    @property
    def endpoint(self) -> str:
        return self._members[COORDINATOR].address

    def url(self, name: str) -> str:
        """Return the base URL of a gateway's API."""
        return self._members[name].address

    async def start(self, name: str) -> None:
        """Start a process, at its former address if it had one. Raises RuntimeError."""
        role, known = ROLES[name], self._members.get(name)
        arguments = ["-v"]
        if role == COORDINATOR:
            arguments += ["--listen", known.address if known else "tcp://127.0.0.1:*"]
        elif role == "gateway":
            address = known.address.removeprefix("http://") if known else "127.0.0.1:0"
            listen = address.removesuffix("/v1")
            arguments += ["--connect", self.endpoint, "--listen", listen]
        else:
            model = "toy:1" if role == "target" else "toy:0.8"
            arguments += ["--connect", self.endpoint, "--name", name, "--model", model]
        with (self._folder / f"{name}.log").open("a") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nodes.cli", role, *arguments),
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        address = ""
        if role in (COORDINATOR, "gateway"):
            assert process.stdout is not None
            async with asyncio.timeout(_UP_LIMIT_S):
                line = (await process.stdout.readline()).decode()
            if not line:
                raise RuntimeError(f"{name} did not start: {self._last_line(name)}")
            address = line.split()[-1]
        self._members[name] = _Member(process, address)

    def _environment(self) -> dict[str, str]:
        # The settings and keys of the user who runs this must not matter.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AIRDRAFT_")}
        return {
            **clean,
            "AIRDRAFT_KEYS": str(self._folder / "keys"),
            "AIRDRAFT_JOIN_TIMEOUT_S": "600",
            "AIRDRAFT_LIMITS__STOP_TIMEOUT_S": _GATEWAY_STOP_S,
            "PYTHONPATH": str(_ROOT),
        }

    async def stop(self, name: str) -> None:
        """Send SIGTERM, as a supervisor does, and check the exit code."""
        process = self._members[name].process
        if process.returncode is not None:
            last = self._last_line(name)
            code = process.returncode
            self.faults.append(f"{name} had ended by itself with exit code {code}: {last}")
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            self.faults.append(f"{name} did not end within {_STOP_LIMIT_S:g} s")
            return
        if code:
            self.faults.append(f"{name} ended with exit code {code}: {self._last_line(name)}")

    def _last_line(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""

    async def wait_for_nodes(self, watcher: Client) -> None:
        """Wait until all targets and draft nodes are in the mesh. Raises TimeoutError."""
        wanted = {name for name, role in ROLES.items() if role in ("target", "draft")}
        present: set[str] = set()
        async with asyncio.timeout(_UP_LIMIT_S):
            while not wanted <= present:
                await asyncio.sleep(_POLL_S)
                with contextlib.suppress(RequestFailedError):
                    present = {node.node for node in (await watcher.nodes()).nodes}

    def kill_all(self) -> None:
        for member in self._members.values():
            if member.process.returncode is None:
                member.process.kill()

    async def ended(self) -> None:
        """Wait until all processes have ended."""
        await asyncio.gather(*(member.process.wait() for member in self._members.values()))


@contextlib.asynccontextmanager
async def members() -> AsyncIterator[tuple[Members, Client]]:
    """Start all processes and a client that lists the members; end them all at the end."""
    with tempfile.TemporaryDirectory(prefix="airdraft-rolling-") as folder:
        made = Members(Path(folder))
        try:
            for name in ROLES:
                await made.start(name)
            with ZmqContext() as context:
                watcher = Client(
                    context.connect(made.endpoint, None), endpoint=made.endpoint, rejoins=True
                )
                running = asyncio.create_task(watcher.run())
                try:
                    await made.wait_for_nodes(watcher)
                    yield made, watcher
                finally:
                    watcher.close()
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
            for name in reversed(ROLES):
                await made.stop(name)
        finally:
            made.kill_all()
            await made.ended()
