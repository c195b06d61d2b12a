"""Nodes that are started for one mesh, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nodes.config.settings import EngineSettings
from nodes.service import local
from nodes.service.local import LocalMesh


async def test_what_a_node_has_started_does_not_keep_its_mesh_from_ending(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[None]]
) -> None:
    """It holds the node's standard error open, so that this does not end with the node."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print('progress:', child.pid, file=sys.stderr, flush=True)\n"
        "sys.stdin.read()\n"
    )
    monkeypatch.setattr(local, "node_command", lambda *_: [sys.executable, "-c", code])
    said: list[str] = []
    mesh = LocalMesh("nowhere", status=said.append)
    child = await mesh.start("target", EngineSettings(model="toy:1"))
    await eventually(lambda: said)
    await mesh.stop()
    assert child.reader.done()
    os.kill(int(said[0]), signal.SIGKILL)
    # Its end closes what it held open.
    await eventually(child.is_silent)
    await asyncio.sleep(0)


def test_modules_of_the_folder_it_is_started_in_are_not_those_of_a_node(tmp_path: Path) -> None:
    for name in ("click", "msgpack", "mesh"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')\n")
    command = local.node_command("target", "ipc:///nowhere", EngineSettings(model="toy:1"))
    done = subprocess.run(
        [*command[: command.index("target") + 1], "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
