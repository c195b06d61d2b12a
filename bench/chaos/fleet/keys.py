"""The keys of a mesh: a directory for each member, as `airdraft keys` and `join` write them."""

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
# These ports lie below the range from which the kernel takes the local ports of connections. A
# connection to a port of that range on which no process listens may get this very port as its
# local one. It is then connected to itself, and no process can bind the port.
_PORTS = range(20_000, 32_000)


def make_keys(folder: Path, endpoint: str, roles: Mapping[str, str]) -> None:
    """Create key directories below `folder` for the coordinator, each member and the client.

    roles: the role of each member, by name.
    """
    server = Keyring(folder / COORDINATOR)
    pair = server.make_coordinator_pair()
    authorized = server.authorized()
    members = {name: frozenset({role}) for name, role in roles.items()} | {CLIENT: CLIENT_ROLES}
    for name, allowed in members.items():
        ring = Keyring(folder / name)
        authorized.add(Entry(ring.make_own().public, name, allowed))
        ring.keep_coordinator(KnownCoordinator(endpoint, pair.public))


def free_port() -> int:
    """Return a free loopback port that stays free while the coordinator restarts."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
