"""Functions that the commands about keys share."""

from __future__ import annotations

import sys
from typing import Any

from mesh.errors import KeysError
from nodes.keys.keyring import Keyring
from nodes.service.roles import keyring
from nodes.service.runtime import run


def run_to_result(work: Any) -> Any:
    """Run a coroutine and return its result; if it fails, exit with a line and a code."""
    result: list[Any] = []

    async def keep() -> None:
        result.append(await work())

    code = run(keep)
    if code:
        sys.exit(code)
    return result[0]


def coordinator_keyring(keys: str | None) -> Keyring:
    """The keys of this machine's coordinator; only its service may be able to read the secret key.

    Raises KeysError if there are none.
    """
    ring = keyring(keys or "")
    if ring.coordinator_public() is None:
        raise KeysError(
            f"{ring.directory} has no coordinator's key: run `airdraft keys init` first"
        )
    return ring
