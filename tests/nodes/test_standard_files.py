"""The frame of every process: its standard files, what it says of itself, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.service import runtime

ROOT = Path(__file__).parents[2]


def run_python(script: str, how: str = "") -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_no_socket_gets_the_number_of_a_standard_file_that_is_closed() -> None:
    script = (
        "import os, sys; from nodes.service.runtime import hold_standard_files;"
        " hold_standard_files();"
        "print('out'); print('err', file=sys.stderr);"
        "fd = os.open('/dev/zero', 0); sys.exit(0 if fd > 2 else fd + 10)"
    )
    for how in ("", "<&-", "2>&-", ">&- 2>&- <&-"):
        done = run_python(script, how)
        assert done.returncode == 0, how
        assert done.stdout == ("" if ">&- 2" in how else "out\n")


def test_a_log_that_cannot_be_written_does_not_change_the_exit_code() -> None:
    script = (
        "import sys; from nodes.service.runtime import let_go_of_stderr\n"
        "try: print('x', file=sys.stderr)\n"
        "except OSError: pass\n"
        "let_go_of_stderr(); sys.exit(7)"
    )
    assert run_python(script, "2>/dev/full").returncode == 7
    done = run_python(script)
    assert (done.returncode, done.stderr) == (7, "x\n")


def test_figures_are_told_on_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    said = ""

    async def main() -> None:
        nonlocal said
        waiting = asyncio.create_task(asyncio.Event().wait())
        os.kill(os.getpid(), signal.SIGUSR1)
        while not said:
            await asyncio.sleep(0)
            said = capsys.readouterr().err
        waiting.cancel()

    before = signal.getsignal(signal.SIGUSR1)
    assert runtime.run(main) == 0
    assert signal.getsignal(signal.SIGUSR1) == before
    words = said.split()
    # Of the runtime itself, of main, and the one that waits.
    assert (words[0], words[1:3]) == ("figures:", ["3", "tasks,"])
    assert words[4:7] == ["threads", "of", "the"]
    assert (int(words[3]), int(words[8]) > 1000) == (0, True)
