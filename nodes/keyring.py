"""The keys of this machine: where they lie, and which of them a link needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.authorized import AuthorizedNodes
from mesh.endpoints import check_secure, ipc_path, is_loopback
from mesh.errors import KeysError
from mesh.keys import (
    COORDINATOR_FILE,
    COORDINATOR_KEY_FILE,
    NEXT_KEY_FILE,
    OWN_KEY_FILE,
    ClientKeys,
    KeyPair,
    KnownCoordinator,
    read_coordinator,
    read_key_pair,
    write_coordinator,
    write_key_pair,
)
from mesh.security import ServerKeys, new_key_pair
from nodes.config import DEFAULT_ENDPOINT
from nodes.coordinator.access import ROLES


def default_keys_dir(environ: Mapping[str, str]) -> Path:
    """AIRDRAFT_KEYS, else systemd's credentials where ours are in them, else the user's config."""
    if chosen := environ.get("AIRDRAFT_KEYS"):
        return Path(chosen)
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        directory = Path(credentials)
        if any((directory / name).exists() for name in (OWN_KEY_FILE, COORDINATOR_KEY_FILE)):
            return directory
    config = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "airdraft" / "keys"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key files of one directory; each is read when it is asked for."""

    directory: Path

    def own(self) -> KeyPair | None:
        return read_key_pair(self.directory / OWN_KEY_FILE)

    def coordinator_pair(self) -> KeyPair | None:
        return read_key_pair(self.directory / COORDINATOR_KEY_FILE)

    def known_coordinator(self) -> KnownCoordinator | None:
        return read_coordinator(self.directory / COORDINATOR_FILE)

    def keep_coordinator(self, known: KnownCoordinator) -> None:
        write_coordinator(self.directory / COORDINATOR_FILE, known)

    def keep_own(self, pair: KeyPair) -> None:
        write_key_pair(self.directory / OWN_KEY_FILE, pair)

    def make_next(self) -> KeyPair:
        """The pair that shall take the place of this machine's own; kept before anybody is told."""
        path = self.directory / NEXT_KEY_FILE
        pair = read_key_pair(path)
        if pair is None:
            pair = new_key_pair()
            write_key_pair(path, pair)
        return pair

    def adopt_next(self, pair: KeyPair) -> None:
        self.keep_own(pair)
        (self.directory / NEXT_KEY_FILE).unlink(missing_ok=True)

    def make_own(self) -> KeyPair:
        """This machine's pair; drawn anew if there is none."""
        pair = self.own()
        if pair is None:
            pair = new_key_pair()
            self.keep_own(pair)
        return pair

    def make_coordinator_pair(self) -> KeyPair:
        pair = new_key_pair()
        write_key_pair(self.directory / COORDINATOR_KEY_FILE, pair)
        return pair

    def authorized(self) -> AuthorizedNodes:
        return AuthorizedNodes(self.directory, ROLES)

    def endpoint(self, wanted: str) -> str:
        """Where to connect: as wanted, else where this machine joined, else on this machine."""
        if wanted:
            return wanted
        known = self.known_coordinator()
        return known.endpoint if known is not None else DEFAULT_ENDPOINT

    def client_keys(self, endpoint: str) -> ClientKeys | None:
        """Keys of a link to the coordinator; None where it needs none.

        Raises InsecureEndpointError off this machine without them, and KeysError.
        """
        if ipc_path(endpoint) is not None:
            return None
        own, server = self.own(), self.coordinator_pair()
        known = self.known_coordinator()
        server_key = ""
        if known is not None and known.endpoint == endpoint:
            server_key = known.key
        elif server is not None:
            # The coordinator of this machine.
            server_key = server.public
        elif known is not None and not is_loopback(endpoint):
            # The one that was joined, by another of its addresses.
            server_key = known.key
        if own is not None and server_key:
            return ClientKeys(own, server_key)
        check_secure(endpoint)
        return None

    def server_keys(self, endpoint: str) -> ServerKeys | None:
        """Keys of a coordinator's endpoint; None where it has none and needs none.

        Raises InsecureEndpointError off this machine without keys, and KeysError where nobody
        could come in.
        """
        pair = self.coordinator_pair()
        if ipc_path(endpoint) is not None:
            return None
        if pair is None:
            check_secure(endpoint)
            return None
        store = self.authorized()
        if not store.nodes() and not store.invitations():
            raise KeysError(
                f"nobody may connect to {endpoint}: `airdraft keys invite --role draft` "
                f"or `airdraft keys add` first"
            )
        # A store of its own: the handshakes have a thread of their own.
        door = self.authorized()
        return ServerKeys(pair, lambda key: key in door.nodes() or key in door.invitations())
