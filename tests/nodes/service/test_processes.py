"""What units start: processes in front of a fake manager, from start to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airdraft.nodes.cli.units import UNITS
from airdraft.nodes.gateway.server import SOCKET_NAME as HTTP
from airdraft.nodes.keys.keyring import make_private, private_endpoint
from airdraft.nodes.service.roles import SOCKET_NAME as MESH
from tests.nodes.service.fake_manager import FakeManager

ROOT = Path(__file__).parents[3]
NODE = 'join_timeout_s = 3600.0\n[engine]\nmodel = "toy:0.8"\n'


class Service:
    """A process as systemd starts it, and what its manager hears of it."""

    def __init__(self, process: asyncio.subprocess.Process, manager: FakeManager) -> None:
        self._process, self.manager = process, manager
        self.until = manager.until

    async def ended(self) -> int:
        # The kernel keeps some pings only, and what comes after them is lost.
        self.manager.hear()
        self._process.send_signal(signal.SIGTERM)
        await self.until("STOPPING=1")
        assert self.manager.lines.count("READY=1") == 1
        async with asyncio.timeout(60):
            return await self._process.wait()


class Machine:
    """Where services are started. settings: of all roles. environ: of all services."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, folder / "etc"
        self.environ = {"AIRDRAFT_KEYS": str(folder / "keys")}
        self.settings.mkdir()
        for name in ("coordinator", "gateway"):
            text = (UNITS / "etc" / f"{name}.toml").read_text()
            (self.settings / f"{name}.toml").write_text(text)
        (self.settings / "one.toml").write_text(NODE)

    def connects_to(self, endpoint: str) -> None:
        (self.settings / "one.toml").write_text(f'connect = "{endpoint}"\n{NODE}')

    def _arguments_of(self, unit: str) -> list[str]:
        """What a unit's ExecStart gives the command, with another directory of settings."""
        lines = (UNITS / unit).read_text().splitlines()
        line = next(line for line in lines if line.startswith("ExecStart="))
        _, *arguments = line.removeprefix("ExecStart=").split()
        names = {"%E/airdraft": str(self.settings), "%i": "one"}
        for name, value in names.items():
            arguments = [part.replace(name, value) for part in arguments]
        return arguments

    @contextlib.asynccontextmanager
    async def started(
        self,
        unit: str,
        listening: socket.socket | None = None,
        name: str = "",
        watchdog_s: float = 0.0,
    ) -> AsyncIterator[Service]:
        """listening: a socket that is handed on as descriptor 3. name: by which it is."""
        passing = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
        running = "from airdraft.nodes.cli.main import main; sys.argv[0] = 'airdraft'; main()"
        clean = {
            key: value
            for key, value in os.environ.items()
            if key == "AIRDRAFT_CACHE" or not key.startswith(("AIRDRAFT_", "LISTEN_"))
        }
        passed = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": name} if name else {}

        def as_third() -> None:
            if listening is not None:
                os.dup2(listening.fileno(), 3)

        # The path of a socket may not be long.
        with (
            tempfile.TemporaryDirectory(prefix="airdraft-") as short,
            FakeManager(Path(short) / "notify") as manager,
        ):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", passing + running, *self._arguments_of(unit)),
                cwd=ROOT,
                env={**clean, **self.environ, **manager.environ(watchdog_s), **passed},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                close_fds=False,
                preexec_fn=as_third,
            )
            try:
                yield Service(process, manager)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@contextlib.contextmanager
def listening(machine: Machine, *, is_users: bool) -> Iterator[socket.socket]:
    """What a socket unit of the system or of a user listens at, where nodes of the machine look."""
    if not is_users:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            machine.connects_to(f"tcp://127.0.0.1:{bound.getsockname()[1]}")
            yield bound
        return
    with tempfile.TemporaryDirectory(prefix="run-") as runtime, socket.socket(socket.AF_UNIX) as at:
        machine.environ["XDG_RUNTIME_DIR"] = runtime
        endpoint = private_endpoint(machine.environ)
        make_private(endpoint)
        at.bind(endpoint.removeprefix("ipc://"))
        at.listen()
        yield at


@pytest.mark.parametrize("is_users", [False, True], ids=["the system's", "a user's"])
async def test_a_coordinator_serves_on_the_socket_that_it_is_handed(
    machine: Machine, is_users: bool
) -> None:
    watchdog_s = 2.0
    with listening(machine, is_users=is_users) as at:
        started = machine.started("airdraft-coordinator.service", at, MESH, watchdog_s)
        async with started as coordinator:
            await coordinator.until("READY=1")
            await coordinator.until("WATCHDOG=1")
            started = machine.started("airdraft-target@.service", watchdog_s=watchdog_s)
            async with started as target:
                await target.until("READY=1")
                await target.until("WATCHDOG=1")
                assert await target.ended() == 0
            assert await coordinator.ended() == 0


async def test_a_node_is_ready_once_it_has_joined_and_asks_for_time_until_then(
    machine: Machine,
) -> None:
    with listening(machine, is_users=False) as at:
        async with machine.started("airdraft-draft@.service") as draft:
            await draft.until("STATUS=joining the mesh")
            await draft.until("EXTEND_TIMEOUT_USEC=30000000")
            assert "READY=1" not in draft.manager.lines
            async with machine.started("airdraft-coordinator.service", at, MESH):
                await draft.until("READY=1")
                assert await draft.ended() == 0
            assert {"STATUS=loading the model", "STATUS=serving"} <= set(draft.manager.lines)


async def test_a_gateway_serves_on_the_socket_that_it_is_handed(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as at:
        port = at.getsockname()[1]
        async with machine.started("airdraft-gateway.service", at, HTTP, 2.0) as gateway:
            await gateway.until("READY=1")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(60):
                answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 200 ")
            await gateway.until("WATCHDOG=1")
            assert await gateway.ended() == 0
