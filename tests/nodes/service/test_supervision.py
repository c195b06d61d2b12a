"""A node and the process that started it."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from airdraft.nodes.config.settings import DraftEngine, TargetEngine
from airdraft.nodes.engine.calibrate import Progress
from airdraft.nodes.service import supervision
from airdraft.nodes.service.supervision import Child, Parent, node_command
from tests.cli.commands import wait_until

LIMIT_S = 60.0
Eventually = Callable[..., Awaitable[None]]

ENGINES = {"target": TargetEngine, "draft": DraftEngine}


def test_modules_of_the_folder_it_is_started_in_are_not_those_of_a_node(tmp_path: Path) -> None:
    for name in ("click", "msgpack", "mesh"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')\n")
    command = node_command("target", "ipc:///nowhere", TargetEngine(model="toy:1"))
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


async def started(
    code: str,
    progress: Progress = lambda *_: None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Child:
    """A process in place of a node, which runs this code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=PIPE, stderr=PIPE, start_new_session=True
    )
    return Child("target", process, progress, tell)


async def test_why_a_node_has_crashed_is_in_the_log_of_its_parent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = await started("import logging; logging.error('internal error'); 1 / 0")
    assert await child.wait_for_end() == 1
    await child.reader
    shown = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "target: ERROR:root:internal error" in shown
    assert "target: ZeroDivisionError: division by zero" in shown


async def test_a_node_that_writes_a_very_long_line_is_read_on() -> None:
    child = await started("import sys; sys.stderr.write('x' * 1_000_000 + '\\nerror: the end\\n')")
    await asyncio.wait_for(child.reader, LIMIT_S)
    assert await child.wait_for_end() == 0
    assert child.last_error() == "the end"


async def test_a_node_whose_engine_is_stuck_gives_no_sign_of_life_and_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], eventually: Eventually
) -> None:
    monkeypatch.setattr(supervision, "WATCHDOG_S", 1.0)
    calls: list[float] = []

    def is_well(limit_s: float) -> bool:
        calls.append(limit_s)
        return len(calls) < 3

    async with Parent().attending(lambda: True, is_well):
        await eventually(lambda: len(calls) > 4)
    said = capfd.readouterr().err
    assert said == "READY=1\nWATCHDOG=1\nWATCHDOG=1\n"
    assert set(calls) == {0.5}
    # A node that has not joined yet takes its time.
    hanging = f"import sys, time; time.sleep(2); sys.stderr.write({said!r}); time.sleep(600)"
    child = await started(hanging)
    assert await child.wait_for_end() == -signal.SIGKILL
    await child.reader
    assert child.last_error() == "the target gave no sign of life for 1 s"


async def test_a_pause_of_the_parent_is_not_silence_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "WATCHDOG_S", 3.0)
    joined = asyncio.Event()
    code = r"import sys; sys.stderr.write('WATCHDOG=1\nREADY=1\n'); sys.stderr.flush(); "
    child = await started(code + "sys.stdin.read()", lambda *_: joined.set())
    ended = asyncio.create_task(child.wait_for_end())
    await asyncio.wait_for(joined.wait(), LIMIT_S)
    # As if both had been paused with their container.
    time.sleep(3.5)  # noqa: ASYNC251
    await asyncio.sleep(0.1)
    child.close_stdin()
    assert await asyncio.wait_for(ended, LIMIT_S) == 0


@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_node_that_is_still_loading_ends_with_its_parent(tmp_path: Path, role: str) -> None:
    path = tmp_path / "slow.gguf"
    command = node_command(role, f"ipc://{tmp_path}/nobody", ENGINES[role](model=str(path)))
    with loading(path, command) as node:
        assert node.poll() is None
        _, errors = node.communicate(timeout=LIMIT_S)
        assert (node.returncode, errors) == (0, b"")


@pytest.mark.timeout(2 * LIMIT_S)
def test_a_node_of_its_own_stops_regularly_while_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "slow.gguf"
    command = [sys.executable, "-m", "airdraft", "draft", "--model", str(path)]
    with loading(path, [*command, "--connect", f"ipc://{tmp_path}/nobody"]) as node:
        node.terminate()
        _, errors = node.communicate(timeout=LIMIT_S)
        assert (node.returncode, errors) == (0, b"")


@contextlib.contextmanager
def loading(path: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A node that reads its model, of which nothing is ever written."""
    os.mkfifo(path)
    writers: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as node:
        try:
            wait_until(lambda: _open_to_write(path, writers), LIMIT_S)
            yield node
        finally:
            node.kill()
            for fd in writers:
                os.close(fd)


def _open_to_write(fifo: Path, writers: list[int]) -> bool:
    """Be there for who reads it, if somebody does by now."""
    try:
        writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    return True
