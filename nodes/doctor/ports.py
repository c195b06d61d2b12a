"""Checks which process listens at an endpoint."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from mesh.endpoints import ipc_path, listens
from nodes.doctor.finding import Finding, note, ok, warn

_LISTEN = "0A"


def check_port(endpoint: str, root: Path = Path("/")) -> Finding:
    """Check that a coordinator can bind there, or name the process that does. root: of /proc."""
    if (path := ipc_path(endpoint)) is not None:
        state = "a process listens" if listens(path) else "no process listens"
        return note(f"{endpoint}: {state}")
    port = int(endpoint.rpartition(":")[2]) if endpoint.rpartition(":")[2].isdigit() else 0
    inodes = _listeners(port, root)
    if not inodes:
        return ok(f"port {port} is free: no process on this machine listens")
    holder = _holder(inodes, root)
    if "airdraft" in holder or "nodes.cli" in holder:
        return ok(f"port {port}: {holder} listens")
    return warn(
        f"port {port}: {holder or 'a process of another user'} listens",
        "end it if it is not part of airdraft, or choose another port with --listen",
    )


def is_free(endpoint: str, root: Path = Path("/")) -> bool:
    """Whether no process on this machine listens there."""
    if (path := ipc_path(endpoint)) is not None:
        return not listens(path)
    port = endpoint.rpartition(":")[2]
    return port.isdigit() and not _listeners(int(port), root)


def _listeners(port: int, root: Path) -> set[str]:
    """Inodes of sockets that listen on a TCP port."""
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (root / "proc/net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _holder(inodes: set[str], root: Path) -> str:
    """The process that holds one of these sockets; "" if it cannot be seen."""
    for process in sorted((root / "proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                match = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
                if match and match[1] in inodes:
                    words = (process / "cmdline").read_bytes().decode("utf-8", "replace")
                    command = " ".join(words.split("\0"))[:60].strip()
                    return f"process {process.name} ({command})"
    return ""
