"""The frame of every process: its standard files, what it says of itself, how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(script: str, how: str = "") -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_no_socket_gets_the_number_of_a_standard_file_that_is_closed() -> None:
    script = (
        "import os, sys; from airdraft.nodes.service.runtime import hold_standard_files;"
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
        "import sys; from airdraft.nodes.service.runtime import let_go_of_stderr\n"
        "try: print('x', file=sys.stderr)\n"
        "except OSError: pass\n"
        "let_go_of_stderr(); sys.exit(7)"
    )
    assert run_python(script, "2>/dev/full").returncode == 7
    done = run_python(script)
    assert (done.returncode, done.stderr) == (7, "x\n")
