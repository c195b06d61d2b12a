"""Nodes of a private mesh that end, and are started again or not."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from airdraft.mesh.zmq_transport import ZmqClient
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import DraftEngine, TargetEngine
from airdraft.nodes.service import local
from airdraft.nodes.service.local import (
    MOST_FAILED_STARTS,
    WAITS_S,
    LocalMesh,
    NodeFailedError,
    local_mesh,
)
from airdraft.nodes.service.supervision import Child
from tests.nodes.memory_mesh import PROMPT, Answer, ask, check

# Processes are started: a passing test needs a few seconds of a fast machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMIT_S = 120.0
TOY = TargetEngine(model="toy:1")
DRAFT = DraftEngine(model="toy:0.8")
Eventually = Callable[..., Awaitable[None]]


async def until_nodes(client: MeshClient, roles: set[str]) -> None:
    present: set[str] = set()
    async with asyncio.timeout(LIMIT_S):
        while present != roles:
            await asyncio.sleep(0.01)
            present = {node.role for node in (await client.nodes()).nodes}


@pytest.mark.parametrize("role", ["target", "draft"])
async def test_texts_go_on_with_the_next_node(role: str, eventually: Eventually) -> None:
    lines: list[str] = []
    options = GenerateOptions(max_tokens=600, gamma=4, num_choices=2, seed=3)

    async def killed_twice(mesh: LocalMesh, client: MeshClient) -> list[list[Answer]]:
        found = []
        for number in (1, 2):
            seen = asyncio.Event()
            asking = asyncio.create_task(ask(client, options, on_tokens=seen.set))
            await seen.wait()
            killed = mesh.pid(role)
            os.kill(killed, signal.SIGKILL)
            # What is asked before anybody has noticed is answered as well.
            late = asyncio.create_task(ask(client, options))
            await eventually(lambda n=number: len(lines) == n, LIMIT_S)
            found += [await asking, await late]
            await until_nodes(client, {"target", "draft"})
            assert mesh.pid(role) != killed
        return found

    # Toys are fast: a gateway may be told more than it has read yet.
    started = local_mesh(TOY, DRAFT, role="gateway", restarts=True, tell=lines.append)
    async with started as (mesh, client):
        found = await mesh.beside(killed_twice(mesh, client))
    # This takes so long that the mesh would not wait for it.
    for answers in found:
        check(answers, options, PROMPT)
    first, second = lines
    assert first == f"the {role} node ended (SIGKILL): starting it again"
    # It may have been well for long enough, on a slow machine.
    assert second in (first, f"{first} in {WAITS_S[1]:g} s")


@pytest.mark.parametrize(
    ("code", "restarts", "num_starts"),
    [
        (1, True, MOST_FAILED_STARTS),
        # Mistakes of a setting, and a node that an operator has sent away.
        *((code, True, 1) for code in (2, 76, 77, 78, 79)),
        (1, False, 1),
    ],
)
async def test_a_mesh_that_never_comes_up_ends_with_its_nodes_own_last_line(
    monkeypatch: pytest.MonkeyPatch, code: int, restarts: bool, num_starts: int
) -> None:
    lines: list[str] = []
    says = f"import sys; print('error: no luck', file=sys.stderr); sys.exit({code})"
    monkeypatch.setattr(local, "node_command", lambda *_: [sys.executable, "-c", says])
    monkeypatch.setattr("airdraft.nodes.service.local.WAITS_S", (0.0, 0.25))
    with pytest.raises(NodeFailedError, match=r"^no luck$"):
        async with local_mesh(TOY, None, restarts=restarts, tell=lines.append):
            pytest.fail("it cannot be up")
    assert len(lines) == num_starts - 1
    if lines:
        assert lines[0] == "the target node ended (no luck): starting it again"
        assert set(lines[1:]) == {"the target node ended (no luck): starting it again in 0.25 s"}


@pytest.mark.parametrize("then", ["sys.exit(1)", "sys.stdin.read()"], ids=["ends", "stays"])
async def test_what_a_node_has_started_holds_up_neither_the_next_node_nor_the_end_of_the_mesh(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually, then: str
) -> None:
    """It holds the standard error of the node open."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print('progress: loading', child.pid, '-', file=sys.stderr, flush=True)\n"
    )
    monkeypatch.setattr(local, "node_command", lambda *_: [sys.executable, "-c", code + then])
    monkeypatch.setattr("airdraft.nodes.service.local.WAITS_S", (3600.0,))
    said: list[tuple[str, int, int | None]] = []
    lines: list[str] = []
    processes: list[asyncio.subprocess.Process] = []

    def noted(role: str, process: asyncio.subprocess.Process, *given: Any) -> Child:
        processes.append(process)
        return Child(role, process, *given)

    monkeypatch.setattr(local, "Child", noted)
    told = {"tell": lines.append, "progress": lambda *step: said.append(step)}
    mesh = LocalMesh("nowhere", restarts=True, **told)
    keeping = asyncio.create_task(mesh.keep("target", TOY))
    await eventually(lambda: said and (lines or "exit" not in then), LIMIT_S)
    if lines:
        assert lines == ["the target node ended (exit code 1): starting it again in 3600 s"]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await mesh.stop()
    os.kill(said[0][1], signal.SIGKILL)
    # Its end closes what it held open.
    assert processes[0].stderr is not None
    await eventually(processes[0].stderr.at_eof)
    await asyncio.sleep(0)


async def test_a_mesh_that_was_up_starts_a_node_again_however_often_it_fails(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """Its model file may be on a disk that comes back."""
    lines: list[str] = []
    monkeypatch.setattr("airdraft.nodes.service.local.WAITS_S", (0.0,))
    async with local_mesh(TOY, None, restarts=True, tell=lines.append) as (mesh, client):
        command = local.node_command
        mistake = [sys.executable, "-c", "raise SystemExit(78)"]
        monkeypatch.setattr(local, "node_command", lambda *_: mistake)
        os.kill(mesh.pid("target"), signal.SIGKILL)
        await eventually(lambda: len(lines) > 2 * MOST_FAILED_STARTS, LIMIT_S)
        monkeypatch.setattr(local, "node_command", command)
        await until_nodes(client, {"target"})
        options = GenerateOptions(max_tokens=20)
        check(await ask(client, options), options, PROMPT)


async def test_a_node_that_an_operator_sent_away_is_not_started_again(
    eventually: Eventually,
) -> None:
    lines: list[str] = []
    started = local_mesh(TOY, DRAFT, role="admin", restarts=True, tell=lines.append)
    async with started as (mesh, client):
        await client.command_node("drop", "draft")
        await mesh.beside(eventually(lambda: lines, LIMIT_S))
        (line,) = lines
        assert line.startswith("the draft node ended (dropped by an operator")
        assert line.endswith(": it is not started again")
        options = GenerateOptions(max_tokens=20)
        check(await mesh.beside(ask(client, options)), options, PROMPT)


async def test_a_mesh_ends_while_a_node_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("airdraft.nodes.service.local.WAITS_S", (3600.0,))
    async with local_mesh(TOY, DRAFT, restarts=True, tell=lines.append) as (mesh, _client):
        pids = [mesh.pid(role) for role in ("target", "draft")]
        os.kill(pids[0], signal.SIGKILL)
        await eventually(lambda: lines, LIMIT_S)
        assert lines == ["the target node ended (SIGKILL): starting it again in 3600 s"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_mesh_that_stays_does_not_end_because_its_own_client_heard_nothing_for_a_while(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """On a machine that is too busy the client of `airdraft serve` may give its coordinator up."""
    options, hear = GenerateOptions(max_tokens=20), ZmqClient.recv

    async def hear_if_not_deaf(transport: ZmqClient) -> Any:
        while True:
            frames = await hear(transport)
            if not is_deaf:
                return frames

    is_deaf = False
    # The only client of this process.
    monkeypatch.setattr(ZmqClient, "recv", hear_if_not_deaf)
    async with local_mesh(TOY, None, restarts=True) as (mesh, client):
        is_deaf = True
        await mesh.beside(eventually(lambda: not client.is_joined, LIMIT_S))
        is_deaf = False
        check(await mesh.beside(ask(client, options)), options, PROMPT)
