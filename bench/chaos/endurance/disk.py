"""Check what a mesh writes and serves while its disk is full or read-only.

A scene runs in a process with a mount namespace of its own, so no mount is left on this machine.
This module is the program that runs it: its argument is the name of the scene, and it prints what
was found as a line of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import httpx

from bench.harness.processes import ROOT
from bench.harness.report import Findings
from bench.harness.up import TOYS, Up, up
from mesh.security import new_key_pair
from nodes.cli.main import main as airdraft

_LIMIT_S: Final = 120.0
_ALL_LIMIT_S: Final = 600.0
_DISK: Final = Path("/mnt")
_MOST_RECOVERY_S: Final = 1.0
_BALLAST, _LOG = "ballast", "log"
_ASKED: Final = {"prompt": "on a small disk", "max_tokens": 12, "temperature": 0}


def run_disk(scene: str) -> Findings:
    """Run a scene. Raises ClickException if it fails, or test disks cannot be mounted here."""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-m", "bench.chaos.endurance.disk", scene],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_ALL_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{scene}: {done.stderr.strip()[-2000:]}")
    return Findings(**json.loads(done.stdout.splitlines()[-1]))


def main(scene: str) -> None:
    # Of this namespace only, so it goes with this process.
    _run("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(_DISK))
    found = Findings()
    _SCENES[scene](_DISK, found)
    print(json.dumps(asdict(found)))


def _text(mesh: Up, api_key: str) -> str:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    url = f"{mesh.url}/completions"
    answer = httpx.post(url, json=_ASKED, headers=headers, timeout=_LIMIT_S).raise_for_status()
    return str(answer.json()["choices"][0]["text"])


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


def _state_on(
    disk: Path,
    found: Findings,
    kind: str,
    starve: Callable[[Path], contextlib.AbstractContextManager[None]],
) -> None:
    keys = disk / "keys"
    _airdraft("keys", "init", "--keys", str(keys), "--name", "hub")
    api_key = _airdraft("apikeys", "add", "web", "--keys", str(keys))[0].split()[-1]
    with (
        up(*TOYS, "-v", keys=keys, log=disk / _LOG) as mesh,
        tempfile.TemporaryDirectory() as elsewhere,
    ):
        before_text, invite = _text(mesh, api_key), _writers(mesh, disk, 0)["keys invite"]
        join = ("join", _airdraft(*invite)[0].strip(), "--name", "newcomer", "--keys", elsewhere)
        state, texts = _state_of(disk), list[str]()
        with starve(disk):
            texts.append(_text(mesh, api_key))
            for name, argv in _writers(mesh, disk, 1).items():
                _, refusal = _airdraft(*argv)
                found.lines.append(f"{kind} disk: {name}: {refusal}")
                if not refusal.startswith("error: ") or "\n" in refusal:
                    fault = f"{name} does not print one error line: {refusal!r}"
                    found.faults.append(f"{kind}: {fault}")
            if not _airdraft(*join)[1]:
                found.faults.append(f"{kind}: a key was authorized that could not be stored")
            changes = {name for name, _ in state.items() ^ _state_of(disk).items()}
            if changes:
                found.faults.append(f"{kind}: files have changed: {', '.join(sorted(changes))}")
            texts.append(_text(mesh, api_key))
        began = time.monotonic()
        # Use the invitation that could not be used before.
        if refusal := _airdraft(*join)[1]:
            found.faults.append(f"{kind}: with free space again join: {refusal}")
        texts.append(_text(mesh, api_key))
        recovered_s = time.monotonic() - began
        if set(texts) != {before_text}:
            found.faults.append(f"{kind}: the text of a request differs from before")
        if recovered_s > _MOST_RECOVERY_S:
            found.faults.append(f"{kind}: writing works {recovered_s:.2f} s after space was freed")
        writers = _writers(mesh, disk, 2)
        for name, argv in writers.items():
            if refusal := _airdraft(*argv)[1]:
                found.faults.append(f"{kind}: with free space again {name}: {refusal}")
        found.lines.append(
            f"{kind} disk: {len(texts)} requests during and after it, {len(writers)} commands that "
            f"write refused; an invitation worked {recovered_s:.2f} s after"
        )
    found.faults += [f"{kind}: {fault}" for fault in mesh.faults]


def _writers(mesh: Up, disk: Path, attempt: int) -> dict[str, list[str]]:
    """Return commands that write to the disk, by name."""
    keys = ("--keys", str(mesh.keys))
    name = f"machine-{attempt}"
    public = new_key_pair().public
    return {
        "keys add": ["keys", "add", "--name", name, "--role", "client", *keys, "--", public],
        "keys invite": ["keys", "invite", "--role", "draft", "--endpoint", mesh.endpoint, *keys],
        "keys rotate-coordinator": ["keys", "rotate-coordinator", *keys],
        "keys init elsewhere": ["keys", "init", "--keys", str(disk / name)],
        "apikeys add": ["apikeys", "add", name, *keys],
        "trace": [
            *("trace", "--connect", mesh.endpoint, "--seconds", "0.1", *keys),
            *("--output", str(disk / f"{name}.json")),
        ],
    }


def _airdraft(*argv: str) -> tuple[str, str]:
    """Run a command in this process, which is fast; return its output, and how it failed or ""."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["airdraft", *argv]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            airdraft()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    failure = errors.getvalue().strip() or f"no error output, exit code {code}"
    return output.getvalue(), failure if code else ""


def _state_of(disk: Path) -> dict[str, str]:
    """Return the hashes of the files on a disk, without log and ballast."""
    files = (p for p in disk.rglob("*") if p.is_file() and p.name not in (_BALLAST, _LOG))
    return {str(p.relative_to(disk)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# -- standard error that takes nothing -------------------------------------------------------------


def _no_standard_error(disk: Path, found: Findings) -> None:
    for how in ("2>/dev/full", "2>&-"):
        prefix = ("sh", "-c", f'exec "$@" {how}', "sh")
        with up(*TOYS, "-v", keys=disk / "keys", prefix=prefix) as mesh:
            is_served = _text(mesh, "") == _text(mesh, "")
        code = mesh.process.returncode
        found.lines.append(f"{how}: served {is_served}, exit code {code}")
        # Without handling, Python would end with exit code 120.
        if not is_served or code != 0:
            found.faults.append(f"{how}: served {is_served}, exit code {code}")


_SCENES: Final[dict[str, Callable[[Path, Findings], Any]]] = {
    "full": partial(_state_on, kind="full", starve=_full),
    "read-only": partial(_state_on, kind="read-only", starve=_read_only),
    "stderr": _no_standard_error,
}

if __name__ == "__main__":
    main(sys.argv[1])
