"""Temporary network namespaces, made by the command `ip`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence


class NamespacesError(Exception):
    """Namespaces cannot be made on this machine; the text gives the reason."""


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Make `count` namespaces with loopback up; at the end remove them and kill their processes."""
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
    """Returns the command that runs argv in a namespace."""
    return ["ip", "netns", "exec", name, *argv]


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Move this thread into a namespace: sockets that it opens within the block belong there, and
    so do those of threads that start within it. Raises OSError if this is not allowed."""
    with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{name}") as other:
        _move_to(other.fileno())
        try:
            yield
        finally:
            _move_to(own.fileno())


def _move_to(namespace: int) -> None:
    # os.setns() exists from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def remove(names: Sequence[str]) -> None:
    """Remove those of the namespaces that exist, and kill the processes in them."""
    existing = {line.split()[0] for line in ip("netns", "list").splitlines() if line}
    for name in names:
        if name not in existing:
            continue
        for pid in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", name)


def ip(*arguments: str) -> str:
    """Run `ip` and return its output. Raises NamespacesError with its error message."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespacesError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
