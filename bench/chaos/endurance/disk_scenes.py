"""Check what a mesh writes and serves while its disk is full or read-only.

A scene runs in a process with a mount namespace of its own, so no mount is left on this machine.
This module is the program that runs it: its argument is the name of the scene, and it prints what
was found as a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from airdraft.mesh.security import new_key_pair
from bench.chaos.endurance import disk_roles
from bench.chaos.endurance.disk import airdraft, full, read_only, run, state_of
from bench.harness.report import Findings
from bench.harness.up import TOYS, Up, up

_LIMIT_S: Final = 120.0
_DISK: Final = Path("/mnt")
_MOST_RECOVERY_S: Final = 1.0
_LOG: Final = "log"
_ASKED: Final = {"prompt": "on a small disk", "max_tokens": 12, "temperature": 0}


def main(scene: str) -> None:
    # Of this namespace only, so it goes with this process.
    run("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(_DISK))
    found = Findings()
    _SCENES[scene](_DISK, found)
    print(json.dumps(asdict(found)))


def _text(mesh: Up, api_key: str) -> str:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    url = f"{mesh.url}/completions"
    answer = httpx.post(url, json=_ASKED, headers=headers, timeout=_LIMIT_S).raise_for_status()
    return str(answer.json()["choices"][0]["text"])


# -- a disk that takes nothing ---------------------------------------------------------------------


def _state_on(
    disk: Path,
    found: Findings,
    kind: str,
    starve: Callable[[Path], contextlib.AbstractContextManager[None]],
) -> None:
    keys = disk / "keys"
    airdraft("keys", "init", "--keys", str(keys), "--name", "hub")
    api_key = airdraft("apikeys", "add", "web", "--keys", str(keys))[0].split()[-1]
    with (
        up(*TOYS, "-v", keys=keys, log=disk / _LOG) as mesh,
        tempfile.TemporaryDirectory() as elsewhere,
    ):
        before_text, invite = _text(mesh, api_key), _writers(mesh, disk, 0)["keys invite"]
        join = ("join", airdraft(*invite)[0].strip(), "--name", "newcomer", "--keys", elsewhere)
        state, texts = state_of(disk), list[str]()
        with starve(disk):
            texts.append(_text(mesh, api_key))
            for name, argv in _writers(mesh, disk, 1).items():
                _, refusal = airdraft(*argv)
                found.lines.append(f"{kind} disk: {name}: {refusal}")
                if not refusal.startswith("error: ") or "\n" in refusal:
                    fault = f"{name} does not print one error line: {refusal!r}"
                    found.faults.append(f"{kind}: {fault}")
            if not airdraft(*join)[1]:
                found.faults.append(f"{kind}: a key was authorized that could not be stored")
            changes = {name for name, _ in state.items() ^ state_of(disk).items()}
            if changes:
                found.faults.append(f"{kind}: files have changed: {', '.join(sorted(changes))}")
            texts.append(_text(mesh, api_key))
        began = time.monotonic()
        # Use the invitation that could not be used before.
        if refusal := airdraft(*join)[1]:
            found.faults.append(f"{kind}: with free space again join: {refusal}")
        texts.append(_text(mesh, api_key))
        recovered_s = time.monotonic() - began
        if set(texts) != {before_text}:
            found.faults.append(f"{kind}: the text of a request differs from before")
        if recovered_s > _MOST_RECOVERY_S:
            found.faults.append(f"{kind}: writing works {recovered_s:.2f} s after space was freed")
        writers = _writers(mesh, disk, 2)
        for name, argv in writers.items():
            if refusal := airdraft(*argv)[1]:
                found.faults.append(f"{kind}: with free space again {name}: {refusal}")
        found.lines.append(
            f"{kind} disk: {len(texts)} requests during and after it, {len(writers)} commands that "
            f"write refused; an invitation worked {recovered_s:.2f} s after"
        )
    found.faults += [f"{kind}: {fault}" for fault in mesh.faults]


def _writers(mesh: Up, disk: Path, attempt: int) -> dict[str, list[str]]:
    """Returns commands that write to the disk, by name."""
    keys = ("--keys", str(mesh.keys))
    name = f"machine-{attempt}"
    public = new_key_pair().public
    return {
        "keys add": ["keys", "add", "--name", name, "--role", "client", *keys, "--", public],
        "keys invite": ["keys", "invite", "--role", "draft", "--endpoint", mesh.endpoint, *keys],
        "keys init elsewhere": ["keys", "init", "--keys", str(disk / name)],
        "apikeys add": ["apikeys", "add", name, *keys],
        "trace": [
            *("trace", "--connect", mesh.endpoint, "--seconds", "0.1", *keys),
            *("--output", str(disk / f"{name}.json")),
        ],
    }


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
    "full": partial(_state_on, kind="full", starve=full),
    "read-only": partial(_state_on, kind="read-only", starve=read_only),
    "stderr": _no_standard_error,
    "full-mesh": disk_roles.mesh_on,
    "full-cache": disk_roles.cache_on,
    "full-commands": disk_roles.commands_on,
}

if __name__ == "__main__":
    main(sys.argv[1])
