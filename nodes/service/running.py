"""What this user runs on this machine: a file for each process, which is locked while it lives.

The files lie beside the socket of the user's own mesh. Services of the system have no such folder:
systemd lists them.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from airdraft.mesh.endpoints import ipc_path
from airdraft.mesh.errors import EndpointError
from airdraft.mesh.json_form import as_object, from_object
from airdraft.nodes.config.sources import environment
from airdraft.nodes.keys.keyring import make_private, private_endpoint
from airdraft.nodes.service.runtime import STOP_LIMIT_S

logger = logging.getLogger(__name__)

# A file is written by one call and never gets shorter, so that readers see all of it.
_FILE_BYTES: Final = 4096
_POLL_S: Final = 0.05
# Beside the time in which a process ends itself.
_SLACK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    """One process. name: that of the mesh or of the node. endpoint: the coordinator's. url: that of
    the HTTP API. since: local time. log: the file that it writes to, if it runs in the background.
    is_ready: whether it serves. stop_limit_s: the time in which it ends after SIGTERM."""

    role: str
    pid: int = 0
    name: str = ""
    model: str = ""
    endpoint: str = ""
    url: str = ""
    since: str = ""
    log: str = ""
    is_ready: bool = False
    stop_limit_s: float = STOP_LIMIT_S


class RunFile:
    """The file of this process. fd: its descriptor; None if there is no file."""

    def __init__(self, running: Running, fd: int | None) -> None:
        self._running, self._fd = running, fd
        self.change()

    def change(self, **changes: Any) -> None:
        """Set some of the fields of Running."""
        self._running = replace(self._running, **changes)
        if self._fd is not None:
            text = json.dumps(as_object(self._running)).encode()
            os.pwrite(self._fd, text.ljust(_FILE_BYTES), 0)


@contextlib.contextmanager
def registered(running: Running) -> Iterator[RunFile]:
    """Have this process listed until the end of the block.

    One that runs in the background has to be listed: EndpointError or OSError is raised if it
    cannot. Others run without.
    """
    pid = os.getpid()
    since = datetime.now().isoformat(" ", "seconds")
    running = replace(running, pid=pid, since=since)
    with contextlib.ExitStack() as stack:
        fd = None
        try:
            if (folder := run_folder()) is not None:
                fd = stack.enter_context(_locked(folder / f"{running.role}-{pid}.run"))
        except (EndpointError, OSError) as error:
            if running.log:
                raise
            logger.info("`airdraft ps` will not list this process: %s", error)
        yield RunFile(running, fd)


def run_folder() -> Path | None:
    """Returns the folder of the files, which is made; None for a service of the system.

    Raises EndpointError if others may enter it.
    """
    if not (endpoint := private_endpoint(environment())):
        return None
    make_private(endpoint)
    return Path(ipc_path(endpoint) or "").parent


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A file that has its lock from the moment at which others see it; removed at the end.

    It stays open, so the lock says until when the process lives.
    """
    made = path.with_suffix(".new")
    fd = os.open(made, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    made.replace(path)
    try:
        yield fd
    finally:
        path.unlink(missing_ok=True)


def all_running() -> list[Running]:
    """Returns what runs, the oldest first. Files of processes that are gone are removed."""
    try:
        folder = run_folder()
    except EndpointError:
        folder = None
    found = []
    for path in [] if folder is None else folder.glob("*.run"):
        # It may end meanwhile, or be of another version.
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            if _is_over(file):
                path.unlink(missing_ok=True)
            else:
                found.append(from_object(Running, json.loads(file.read())))
    return sorted(found, key=lambda running: (running.since, running.pid))


def _is_over(file: IO[bytes]) -> bool:
    """Whether no process has the lock of a file any more."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def stop(running: Running) -> bool:
    """Send SIGTERM to a process and wait for its end. Returns whether it ended in its time."""
    folder = run_folder()
    if folder is None:
        return False
    try:
        file = (folder / f"{running.role}-{running.pid}.run").open("rb")
    except FileNotFoundError:
        return True
    with file:
        give_up_at = time.monotonic() + running.stop_limit_s + _SLACK_S
        if not _is_over(file):
            os.kill(running.pid, signal.SIGTERM)
        while not (is_over := _is_over(file)) and time.monotonic() < give_up_at:
            time.sleep(_POLL_S)
    return is_over
