"""Places at which the processes of a mesh run: one machine, or the stations of an emulated cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

HUB: Final = "hub"
_LOOPBACK: Final = "127.0.0.1"


class Places(Protocol):
    """Places at which programs run. hub_host: the address at which the hub listens."""

    hub_host: str

    def command(self, place: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs argv at a place."""

    async def dial(self, station: str, port: int) -> tuple[str, int]:
        """Return host and port at which a station reaches a port of the hub."""


class OneMachine:
    """All places are this machine, and reach each other over loopback."""

    hub_host = _LOOPBACK

    def command(self, place: str, argv: Sequence[str]) -> list[str]:
        """Return argv itself."""
        del place
        return list(argv)

    async def dial(self, station: str, port: int) -> tuple[str, int]:
        """Return the address of the hub."""
        del station
        return _LOOPBACK, port
