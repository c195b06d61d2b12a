"""Network namespaces of our own, by the commands of `ip`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence


class NamespacesError(Exception):
    """Namespaces cannot be made here; the text says why."""


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """So many, with their loopback up; removed at the end with the processes left in them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NamespacesError("network namespaces need root and `ip`")
    mark = secrets.token_hex(3)
    names = [f"ad{mark}{index}" for index in range(count)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        remove(names)


def inside(name: str, argv: Sequence[str]) -> list[str]:
    """The command that runs argv in a namespace."""
    return ["ip", "netns", "exec", name, *argv]


def remove(names: Sequence[str]) -> None:
    """Those of them that are there, and the processes in them."""
    there = {line.split()[0] for line in ip("netns", "list").splitlines() if line}
    for name in names:
        if name not in there:
            continue
        for pid in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", name)


def ip(*arguments: str) -> str:
    """Its output. Raises NamespacesError with what it says."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespacesError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
