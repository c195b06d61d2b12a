"""A process that has imported everything and forks the processes of a mesh within milliseconds.

It reads requests, lines of JSON with the fields of `Wanted`, and answers each with `{"pid"}`. It
reports `{"ended", "code"}` and `{"stopped"}` of its children, by pid. Children end with it, and it
ends at the end of its standard input. Starting a new interpreter for each of a thousand processes
would measure little but these starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path

from bench.harness.airdraft import main as airdraft
from bench.harness.processes import BLOCK_S, Wanted

_PR_SET_PDEATHSIG = 1
_MOST_FDS = 4096
_EXIT_UNKNOWN = 70


def main() -> None:
    """Fork the requested processes until standard input ends."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # SIGCHLD also reports stops, because Python does not set SA_NOCLDSTOP.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    children: set[int] = set()
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == reading:
                    os.read(reading, 4096)
                    _report_changes(children)
                    continue
                if not (data := os.read(0, 1 << 16)):
                    _end(children)
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    children.add(pid := _fork(json.loads(line)))
                    _report(pid=pid)


def _report(**fields: int) -> None:
    # The parent may be gone; the loop in main then sees the end of standard input.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(fields).encode() + b"\n")


def _report_changes(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            _report(stopped=pid)
            continue
        children.discard(pid)
        _report(ended=pid, code=os.waitstatus_to_exitcode(status))


def _end(children: set[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def _fork(wanted: Wanted) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = _EXIT_UNKNOWN
    try:
        _become(wanted, parent)
        if wanted["executes"]:
            os.execvp(wanted["argv"][0], wanted["argv"])
        code = _run(wanted["argv"])
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _become(wanted: Wanted, parent: int) -> None:
    """Make the fork look like a process started from a command line, which ends with its parent."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent had ended before prctl, so no signal will come.
        os._exit(_EXIT_UNKNOWN)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(BLOCK_S))
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, _MOST_FDS)
    os.chdir(Path(wanted["log"]).parent)
    os.environ.clear()
    os.environ.update(wanted["environ"])
    if max_files := wanted["max_files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))


def _run(argv: list[str]) -> int:
    sys.argv = ["airdraft", *argv]
    try:
        airdraft()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    main()
