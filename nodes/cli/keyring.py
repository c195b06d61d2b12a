"""What the commands about keys share."""

from __future__ import annotations

import sys
from typing import Any

from mesh.errors import KeysError
from nodes.keys.keyring import Keyring
from nodes.service.roles import keyring
from nodes.service.runtime import run


def run_to_result(work: Any) -> Any:
    """What a coroutine returns; ends the process with a line and a code if it fails."""
    result: list[Any] = []

    async def keep() -> None:
        result.append(await work())

    code = run(keep)
    if code:
        sys.exit(code)
    return result[0]


def coordinator_keyring(keys: str | None) -> Keyring:
    """Of the machine's coordinator; its secret key may be one that only its service is handed."""
    ring = keyring(keys or "")
    if ring.coordinator_public() is None:
        raise KeysError(f"{ring.directory} has no coordinator's key: `airdraft keys init` first")
    return ring
