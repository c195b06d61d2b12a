"""What units start: processes in front of a fake manager, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodes.gateway.role import SOCKET_NAME as HTTP
from nodes.keys.home import make_private, private_endpoint
from nodes.service.roles import SOCKET_NAME as MESH
from nodes.service.units import shipped_directory
from tests.nodes.service.fake_manager import FakeManager

ROOT = Path(__file__).parents[3]


@pytest.fixture
def fake(tmp_path):
    manager = FakeManager(tmp_path / "notify")
    yield manager
    manager.close()


def arguments_of(unit: str, settings: Path) -> list[str]:
    """What a unit's ExecStart gives the command, with another directory of settings."""
    text = (shipped_directory() / unit).read_text()
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    _, *arguments = line.removeprefix("ExecStart=").split()
    return [part.replace("%E/airdraft", str(settings)).replace("%i", "one") for part in arguments]


@contextlib.asynccontextmanager
async def started(
    arguments: list[str], environ: dict[str, str], listening: socket.socket | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process as systemd starts it: the listening socket is its descriptor 3."""
    passing = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
    running = "from nodes.cli.main import main; sys.argv[0] = 'airdraft'; main()"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRDRAFT_", "LISTEN_"))}
    for name in ("AIRDRAFT_CACHE",):
        if name in os.environ:
            clean[name] = os.environ[name]

    def as_third() -> None:
        if listening is not None:
            os.dup2(listening.fileno(), 3)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", passing + running, *arguments),
        cwd=ROOT,
        env={**clean, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=as_third,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def passed(name: str) -> dict[str, str]:
    return {"LISTEN_FDS": "1", "LISTEN_FDNAMES": name}


@pytest.fixture
def settings(tmp_path):
    """Settings of all roles beside a coordinator that listens where its socket says."""
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("coordinator", "gateway"):
        text = (shipped_directory() / "etc" / f"{name}.toml").read_text()
        (folder / f"{name}.toml").write_text(text)
    return folder


def node_settings(folder: Path, endpoint: str) -> None:
    lines = 'connect = "{}"\njoin_timeout_s = 3600.0\n[engine]\nmodel = "toy:0.8"\n'
    (folder / "one.toml").write_text(lines.format(endpoint))


async def ended(process: asyncio.subprocess.Process, fake: FakeManager) -> int:
    process.send_signal(signal.SIGTERM)
    await fake.until("STOPPING=1")
    async with asyncio.timeout(60):
        return await process.wait()


async def test_a_coordinator_serves_on_the_socket_that_it_is_handed(tmp_path, fake, settings):
    keys = {"AIRDRAFT_KEYS": str(tmp_path / "keys")}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        node_settings(settings, endpoint)
        command = arguments_of("airdraft-coordinator.service", settings)
        environ = {**keys, **fake.environ(watchdog_s=2.0), **passed(MESH)}
        async with started(command, environ, listening) as coordinator:
            await fake.until("READY=1")
            await fake.until("WATCHDOG=1")
            node_manager = FakeManager(tmp_path / "notify-target")
            try:
                command = arguments_of("airdraft-target@.service", settings)
                environ = {**keys, **node_manager.environ(watchdog_s=2.0)}
                async with started(command, environ) as target:
                    await node_manager.until("READY=1")
                    await node_manager.until("WATCHDOG=1")
                    assert await ended(target, node_manager) == 0
            finally:
                node_manager.close()
            assert await ended(coordinator, fake) == 0


async def test_services_of_a_user_meet_at_the_socket_that_nobody_else_reaches(
    tmp_path, fake, settings
):
    with tempfile.TemporaryDirectory(prefix="run-") as runtime, socket.socket(socket.AF_UNIX) as at:
        own = {"AIRDRAFT_KEYS": str(tmp_path / "keys"), "XDG_RUNTIME_DIR": runtime}
        endpoint = private_endpoint(own)
        make_private(endpoint)
        # As the socket unit of a user's manager does.
        at.bind(endpoint.removeprefix("ipc://"))
        at.listen()
        (settings / "one.toml").write_text('join_timeout_s = 3600.0\n[engine]\nmodel = "toy:0.8"\n')
        command = arguments_of("airdraft-coordinator.service", settings)
        environ = {**own, **fake.environ(), **passed(MESH)}
        async with started(command, environ, at) as coordinator:
            await fake.until("READY=1")
            node_manager = FakeManager(tmp_path / "notify-target")
            try:
                command = arguments_of("airdraft-target@.service", settings)
                async with started(command, {**own, **node_manager.environ()}) as target:
                    await node_manager.until("READY=1")
                    assert await ended(target, node_manager) == 0
            finally:
                node_manager.close()
            assert await ended(coordinator, fake) == 0


async def test_a_node_is_ready_when_it_has_joined_and_asks_for_time_until_then(
    tmp_path, fake, settings
):
    keys = {"AIRDRAFT_KEYS": str(tmp_path / "keys")}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        node_settings(settings, f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        command = arguments_of("airdraft-draft@.service", settings)
        async with started(command, {**keys, **fake.environ()}) as draft:
            await fake.until("STATUS=joining the mesh")
            await fake.until("EXTEND_TIMEOUT_USEC=30000000")
            assert "READY=1" not in fake.lines
            other = FakeManager(tmp_path / "notify-coordinator")
            try:
                command = arguments_of("airdraft-coordinator.service", settings)
                environ = {**keys, **other.environ(), **passed(MESH)}
                async with started(command, environ, listening):
                    await fake.until("READY=1")
                    assert await ended(draft, fake) == 0
            finally:
                other.close()


async def test_a_gateway_serves_on_the_socket_that_it_is_handed(tmp_path, fake, settings):
    keys = {"AIRDRAFT_KEYS": str(tmp_path / "keys")}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = arguments_of("airdraft-gateway.service", settings)
        environ = {**keys, **fake.environ(watchdog_s=2.0), **passed(HTTP)}
        async with started(command, environ, listening) as gateway:
            await fake.until("READY=1")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(60):
                answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 200 ")
            await fake.until("WATCHDOG=1")
            assert await ended(gateway, fake) == 0
