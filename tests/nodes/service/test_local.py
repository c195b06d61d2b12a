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
from nodes.service.local import HEALTHY_S, MOST_FAILED_STARTS, WAITS_S, LocalMesh, Restarts
from nodes.service.runtime import EXIT_DISMISSED


async def test_what_a_node_has_started_does_not_keep_its_mesh_from_ending(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[None]]
) -> None:
    """It holds the node's standard error open, so that this does not end with the node."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print('progress: loading', child.pid, '-', file=sys.stderr, flush=True)\n"
        "sys.stdin.read()\n"
    )
    monkeypatch.setattr(local, "node_command", lambda *_: [sys.executable, "-c", code])
    said: list[tuple[str, int, int | None]] = []
    mesh = LocalMesh("nowhere", progress=lambda *step: said.append(step))
    child = await mesh.start("target", EngineSettings(model="toy:1"))
    await eventually(lambda: said)
    await mesh.stop()
    assert child.reader.done()
    os.kill(said[0][1], signal.SIGKILL)
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


# -- when a node that ended is started again -------------------------------------------------------

KILLED = -9


def test_the_first_start_is_at_once_and_later_ones_in_a_row_take_longer() -> None:
    deaths = Restarts()
    waits = [deaths.ended(KILLED, 0.0, was_ready=True) for _ in range(3 * len(WAITS_S))]
    assert waits[: len(WAITS_S)] == list(WAITS_S)
    assert set(waits[len(WAITS_S) :]) == {WAITS_S[-1]}


def test_a_node_that_was_well_in_the_mesh_for_a_while_begins_anew() -> None:
    deaths = Restarts()
    for _ in range(4):
        deaths.ended(KILLED, 0.0, was_ready=True)
    deaths.joined(10.0)
    assert deaths.ended(KILLED, 10.0 + HEALTHY_S, was_ready=True) == WAITS_S[0]
    deaths.joined(100.0)
    assert deaths.ended(KILLED, 99.9 + HEALTHY_S, was_ready=True) == WAITS_S[1]
    # This one died while it was being loaded, however long that took.
    assert deaths.ended(KILLED, 10 * HEALTHY_S, was_ready=True) == WAITS_S[2]


def test_it_is_given_up_after_some_failed_starts_of_a_mesh_that_never_was_ready() -> None:
    deaths = Restarts()
    waits = [deaths.ended(1, 0.0, was_ready=False) for _ in range(MOST_FAILED_STARTS)]
    assert None not in waits[:-1]
    assert waits[-1] is None


@pytest.mark.parametrize("code", [2, 76, 77, 78])
def test_a_mistake_in_a_setting_ends_the_start_at_once_but_not_a_mesh_that_was_ready(
    code: int,
) -> None:
    assert Restarts().ended(code, 0.0, was_ready=False) is None
    deaths = Restarts()
    waits = [deaths.ended(code, 0.0, was_ready=True) for _ in range(100)]
    assert None not in waits


@pytest.mark.parametrize("was_ready", [False, True])
def test_a_node_that_an_operator_sent_away_stays_away(was_ready: bool) -> None:
    assert Restarts().ended(EXIT_DISMISSED, 0.0, was_ready=was_ready) is None
