"""A mesh's keys: a directory for each machine, as `airdraft keys` and `join` leave them."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from pathlib import Path

from mesh.authorized import Entry
from mesh.keys import KnownCoordinator
from nodes.keys.keyring import Keyring
from nodes.messages.access import CLIENT_ROLES

COORDINATOR = "coordinator"
CLIENT = "client"
# Below the range that the kernel gives to connections: one to a port of that range where nobody
# listens may come out of the very same port, is then its own other end, and keeps others off it.
_PORTS = range(20_000, 32_000)


def make_keys(folder: Path, endpoint: str, roles: Mapping[str, str]) -> None:
    """Directories below `folder`: the coordinator's, each member's by name, and the client's."""
    server = Keyring(folder / COORDINATOR)
    pair = server.make_coordinator_pair()
    authorized = server.authorized()
    members = {name: frozenset({role}) for name, role in roles.items()} | {CLIENT: CLIENT_ROLES}
    for name, allowed in members.items():
        ring = Keyring(folder / name)
        authorized.add(Entry(ring.make_own().public, name, allowed))
        ring.keep_coordinator(KnownCoordinator(endpoint, pair.public))


def free_port() -> int:
    """A port of loopback that nobody has, and that stays the coordinator's when it starts again."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
