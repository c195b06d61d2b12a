"""Scenes with a mesh whose state and log are on a small disk.

`disk.py` runs this module in a mount namespace. Arguments: names of scenes, by default all. It
prints the results as a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.chaos.endurance.disk import DiskFound, dump
from bench.chaos.http import Connection
from bench.gateway.meshes import TOYS, started
from mesh.authorized import Entry
from mesh.errors import EndpointError
from mesh.keys import ClientKeys
from mesh.security import new_key_pair
from nodes.cli.main import main as airdraft
from nodes.keys.enrol import EnrolError, Invitation, enrol
from nodes.keys.keyring import Keyring

_LIMIT_S: Final = 120.0
_MOST_RECOVERY_S: Final = 1.0
_BALLAST, _LOG = "ballast", "log"
_ASKED: Final = json.dumps({"prompt": "on a small disk", "max_tokens": 12, "temperature": 0})
_SERVE: Final = ("--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0")


@dataclass(frozen=True, slots=True)
class _Mesh:
    disk: Path
    endpoint: str
    port: int
    api_key: str
    pid: int

    @property
    def keys(self) -> Path:
        return self.disk / "keys"

    def text(self) -> str:
        async def ask() -> str:
            connection = Connection(self.port)
            try:
                async with asyncio.timeout(_LIMIT_S):
                    answer = await connection.ask(
                        "POST", "/v1/completions", _ASKED.encode(), self.api_key
                    )
            finally:
                await connection.close()
            return str(answer.json()["choices"][0]["text"])

        return asyncio.run(ask())

    def invitation(self) -> Invitation:
        ring, pair = Keyring(self.keys), new_key_pair()
        until = int(time.time()) + 600
        ring.authorized().invite(Entry(pair.public, "", frozenset({"draft"}), until))
        server = ring.coordinator_pair()
        assert server is not None
        return Invitation(self.endpoint, server.public, pair)


def main(scenes: list[str]) -> None:
    found = DiskFound()
    for name in scenes or list(_SCENES):
        with _small_disk() as disk:
            _SCENES[name](disk, found)
    print(dump(found))


@contextlib.contextmanager
def _small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="airdraft-disk-") as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        _run("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk))
        try:
            yield disk
        finally:
            _run("umount", "--lazy", str(disk))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# -- a disk that takes nothing ---------------------------------------------------------------------


@contextlib.contextmanager
def _full(disk: Path) -> Iterator[None]:
    """Fill the disk to the last byte inside the block."""
    ballast = disk / _BALLAST
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def _read_only(disk: Path) -> Iterator[None]:
    """Forbid opening files of the disk for writing inside the block; open files stay writable."""
    _run("mount", "--bind", str(disk), str(disk))
    _run("mount", "-o", "remount,bind,ro", str(disk))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(disk))


def _state_on_a_full_disk(disk: Path, found: DiskFound) -> None:
    _state_on(disk, found, "full", _full)


def _state_on_a_read_only_disk(disk: Path, found: DiskFound) -> None:
    _state_on(disk, found, "read-only", _read_only)


def _state_on(
    disk: Path,
    found: DiskFound,
    kind: str,
    starve: Callable[[Path], contextlib.AbstractContextManager[None]],
) -> None:
    with _mesh_on(disk) as mesh:
        before_text, invitation = mesh.text(), mesh.invitation()
        state = _state_of(disk)
        with starve(disk):
            served = mesh.text() == before_text
            for name, argv in _writers(mesh, 1).items():
                refusal = _refusal(argv)
                found.refused[f"{kind}: {name}"] = refusal
                if not refusal.startswith("error: ") or "\n" in refusal:
                    found.faults.append(
                        f"{kind}: {name} does not print one error line: {refusal!r}"
                    )
            with contextlib.suppress(EnrolError):
                asyncio.run(_joined(invitation))
                found.faults.append(f"{kind}: a key was authorized that could not be stored")
            if _state_of(disk) != state:
                found.faults.append(f"{kind}: files have changed: {_changes(state, disk)}")
            served = served and mesh.text() == before_text
        began = time.monotonic()
        # Use the invitation that could not be used before.
        asyncio.run(_joined(invitation))
        served = served and mesh.text() == before_text
        recovered_s = time.monotonic() - began
        found.recovered_s.append(recovered_s)
        if not served:
            found.faults.append(f"{kind}: the text of a request differs from before")
        if recovered_s > _MOST_RECOVERY_S:
            found.faults.append(f"{kind}: writing works {recovered_s:.2f} s after space was freed")
        for name, argv in _writers(mesh, 2).items():
            if refusal := _refusal(argv):
                found.faults.append(f"{kind}: with free space again {name}: {refusal}")
        found.lines.append(
            f"{kind} disk: requests {'served' if served else 'NOT served'} throughout, "
            f"{len(_writers(mesh, 3))} commands that write refused, no file changed; an invitation "
            f"worked {recovered_s:.2f} s after"
        )


@contextlib.contextmanager
def _mesh_on(disk: Path) -> Iterator[_Mesh]:
    keys = disk / "keys"
    _airdraft("keys", "init", "--keys", str(keys), "--name", "hub")
    api_key = _airdraft("apikeys", "add", "web", "--keys", str(keys)).split()[-1]
    with started("up", *TOYS, *_SERVE, "-v", keys=keys, log=disk / _LOG) as process:
        assert process.stdout is not None
        endpoint, url = (process.stdout.readline().split()[-1] for _ in range(2))
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        yield _Mesh(disk, endpoint, port, api_key, process.pid)
        if process.poll() is not None:
            raise EndpointError(endpoint, f"the mesh has ended with code {process.returncode}")


def _writers(mesh: _Mesh, attempt: int) -> dict[str, list[str]]:
    """Return commands that write to the disk, by name."""
    keys = ("--keys", str(mesh.keys))
    name = f"machine-{attempt}"
    public = new_key_pair().public
    return {
        "keys add": ["keys", "add", "--name", name, "--role", "client", *keys, "--", public],
        "keys invite": ["keys", "invite", "--role", "draft", "--endpoint", mesh.endpoint, *keys],
        "keys rotate-coordinator": ["keys", "rotate-coordinator", *keys],
        "keys init elsewhere": ["keys", "init", "--keys", str(mesh.disk / name)],
        "apikeys add": ["apikeys", "add", name, *keys],
        "trace": [
            *("trace", "--connect", mesh.endpoint, "--seconds", "0.1", *keys),
            *("--output", str(mesh.disk / f"{name}.json")),
        ],
    }


def _airdraft(*argv: str) -> str:
    """Run a command that must succeed; return its output."""
    code, printed, errors = _forked(argv)
    assert code == 0, errors
    return printed


def _refusal(argv: Sequence[str]) -> str:
    """Run a command; return its error output, or "" if it succeeds."""
    code, _, errors = _forked(argv)
    return (errors or f"no error output, exit code {code}") if code else ""


def _forked(argv: Sequence[str]) -> tuple[int, str, str]:
    """Run a command in a fork of this process; return exit code, output and error output.

    A fork is fast, because this process has imported everything.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                sys.argv = ["airdraft", *argv]
                airdraft()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode().strip())
    return os.waitstatus_to_exitcode(status), texts[0], texts[1]


async def _joined(invitation: Invitation) -> None:
    """Have a new key authorized, which the coordinator stores. Raises EnrolError."""
    keys = ClientKeys(invitation.pair, invitation.server_key)
    await enrol(invitation.endpoint, keys, new_key_pair().public, "newcomer")


def _state_of(disk: Path) -> dict[str, str]:
    """Return the hashes of the files on a disk, without log and ballast."""
    files = (p for p in disk.rglob("*") if p.is_file() and p.name not in (_BALLAST, _LOG))
    return {str(p.relative_to(disk)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _changes(before: dict[str, str], disk: Path) -> str:
    after = _state_of(disk)
    return ", ".join(
        sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    )


# -- standard error that takes nothing -------------------------------------------------------------


def _no_standard_error(disk: Path, found: DiskFound) -> None:
    for how in ("2>/dev/full", "2>&-"):
        script = f'exec "$@" {how}'
        command = [sys.executable, "-m", "nodes.cli", "up", *TOYS, *_SERVE, "-v"]
        with subprocess.Popen(
            ["sh", "-c", script, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AIRDRAFT_KEYS": str(disk / "keys")},
        ) as process:
            assert process.stdout is not None
            try:
                endpoint, url = (process.stdout.readline().split()[-1] for _ in range(2))
                port = int(url.rsplit(":", 1)[1].split("/")[0])
                mesh = _Mesh(disk, endpoint, port, "", process.pid)
                is_served = mesh.text() == mesh.text()
            finally:
                process.terminate()
            code = process.wait(_LIMIT_S)
        found.lines.append(f"{how}: served {is_served}, exit code {code}")
        # Without handling, Python would end with exit code 120.
        if not is_served or code != 0:
            found.faults.append(f"{how}: served {is_served}, exit code {code}")


_SCENES: Final[dict[str, Callable[[Path, DiskFound], None]]] = {
    "full": _state_on_a_full_disk,
    "read-only": _state_on_a_read_only_disk,
    "stderr": _no_standard_error,
}

if __name__ == "__main__":
    main(sys.argv[1:])
