"""The keys of this machine: their files and places, and the keys that each link needs."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airdraft.mesh import keys
from airdraft.mesh.authorized import AuthorizedNodes
from airdraft.mesh.endpoints import check_connect, check_secure, ipc_path, is_loopback, listens
from airdraft.mesh.errors import EndpointError, KeysError
from airdraft.mesh.keys import ClientKeys, CoordinatorPublic, KeyPair, KnownCoordinator
from airdraft.mesh.security import ServerKeys, new_key_pair
from airdraft.mesh.whole_files import sync_directory
from airdraft.nodes.config.settings import LOOPBACK_ENDPOINT
from airdraft.nodes.messages.access import ROLES

_SOCKET = "mesh.sock"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key files of one directory; each is read when it is needed.

    credentials: directory of systemd's read-only copies of secret files, which take precedence.
    public: directory of files that other users of this machine may read; None if there are none.
    private: endpoint of a mesh that only this user can reach; "" if several users form the mesh.
    """

    directory: Path
    credentials: Path | None = None
    public: Path | None = None
    private: str = ""

    def own(self) -> KeyPair | None:
        return self._pair(keys.OWN_KEY_FILE)

    def coordinator_pair(self) -> KeyPair | None:
        return self._pair(keys.COORDINATOR_KEY_FILE)

    def _pair(self, name: str) -> KeyPair | None:
        if (path := self._credential(name)) is not None:
            return keys.read_key_pair(path, is_credential=True)
        return keys.read_key_pair(self.directory / name)

    def _credential(self, name: str) -> Path | None:
        path = self.credentials / name if self.credentials is not None else None
        return path if path is not None and path.exists() else None

    def _check_changeable(self, name: str) -> None:
        if self._credential(name) is not None:
            raise KeysError(
                f"{name} is a credential of this service: change it where its unit loads it from"
            )

    def known_coordinator(self) -> KnownCoordinator | None:
        return keys.read_coordinator(self.directory / keys.COORDINATOR_FILE)

    def keep_coordinator(self, known: KnownCoordinator) -> None:
        keys.write_coordinator(self.directory / keys.COORDINATOR_FILE, known)

    def make_own(self) -> KeyPair:
        """Returns this machine's pair; a new one is drawn if there is none."""
        return self._drawn(keys.OWN_KEY_FILE)

    def make_next(self) -> KeyPair:
        """Returns the pair that will replace this machine's own; it is stored before it is used."""
        # The coordinator no longer accepts the old key once it has heard of the next one.
        self._check_changeable(keys.OWN_KEY_FILE)
        return self._drawn(keys.NEXT_KEY_FILE)

    def _drawn(self, name: str) -> KeyPair:
        pair = self._pair(name)
        if pair is None:
            pair = new_key_pair()
            keys.write_key_pair(self.directory / name, pair)
        return pair

    def adopt_next(self) -> None:
        # This is atomic: readers see the key either as the next or as the present one.
        (self.directory / keys.NEXT_KEY_FILE).replace(self.directory / keys.OWN_KEY_FILE)
        sync_directory(self.directory)

    def make_coordinator_pair(self) -> KeyPair:
        self._check_changeable(keys.COORDINATOR_KEY_FILE)
        pair = new_key_pair()
        keys.write_key_pair(self.directory / keys.COORDINATOR_KEY_FILE, pair)
        self.publish()
        return pair

    # -- the coordinator's public key ----------------------------------------------------------

    @property
    def public_path(self) -> Path:
        return (self.public or self.directory) / keys.COORDINATOR_PUBLIC_FILE

    def coordinator_public(self) -> CoordinatorPublic | None:
        """Returns the public key of this machine's coordinator, None if it has none.

        The secret file is read only if the public one does not exist yet. Raises KeysError.
        """
        return keys.read_public(self.public_path) or self._public_of_pair()

    def _public_of_pair(self) -> CoordinatorPublic | None:
        pair = self.coordinator_pair()
        return None if pair is None else CoordinatorPublic(pair.public)

    def publish(self) -> None:
        """Bring the public file in line with the secret one. Raises KeysError.

        Only the owner of the coordinator's key calls this: without a key the file is removed.
        """
        public = self._public_of_pair()
        try:
            is_current = public == keys.read_public(self.public_path)
        except KeysError:
            # It is malformed, or others could have changed it.
            is_current = False
        if public is None:
            self.public_path.unlink(missing_ok=True)
        elif not is_current:
            keys.write_public(self.public_path, public)

    def check_room(self) -> None:
        """Raise KeysError if nothing can be written now; call it before irreversible steps."""
        probe = self.directory / ".room"
        keys.write_private(probe, "#" * 4096)
        probe.unlink(missing_ok=True)

    def authorized(self) -> AuthorizedNodes:
        return AuthorizedNodes(self.directory, ROLES)

    def endpoint(self, wanted: str) -> str:
        """Returns the endpoint to connect to: that wanted, else that joined, else a local one.

        Without keys only this user may own the other end, so no other endpoint is tried.
        """
        if wanted:
            return wanted
        if (known := self.known_coordinator()) is not None:
            return known.endpoint
        path = ipc_path(self.private) if self.private else None
        if path is not None and (self.coordinator_public() is None or listens(path)):
            return self.private
        return LOOPBACK_ENDPOINT

    def listen(self, wanted: str) -> str:
        """Returns where a coordinator binds: the wanted endpoint, else one closed to others."""
        if wanted:
            return wanted
        if self.private and self.coordinator_pair() is None:
            return self.private
        return LOOPBACK_ENDPOINT

    def client_keys(self, endpoint: str) -> ClientKeys | None:
        """Returns the keys of a link to the coordinator; None if it needs none.

        Raises InsecureEndpointError if another machine's endpoint has no keys, and KeysError.
        """
        if ipc_path(endpoint) is not None:
            return None
        own, server = self.own(), self.coordinator_public()
        known = self.known_coordinator()
        if own is not None and known is not None and known.endpoint == endpoint:
            return ClientKeys(own, known.key)
        if own is not None and server is not None:
            return ClientKeys(own, server.key)
        if own is not None and known is not None and not is_loopback(endpoint):
            # This may be another address of the coordinator that was joined.
            return ClientKeys(own, known.key)
        check_secure(endpoint)
        return None

    def link(self, wanted: str) -> tuple[str, ClientKeys | None]:
        """Returns the endpoint to which a node or client connects, and its keys, if any.

        Raises EndpointError, InsecureEndpointError or KeysError.
        """
        endpoint = self.endpoint(wanted)
        check_connect(endpoint)
        return endpoint, self.client_keys(endpoint)

    def server_keys(self, endpoint: str) -> ServerKeys | None:
        """Returns the keys of a coordinator's endpoint; None if it has none and needs none.

        Raises InsecureEndpointError if other machines reach it without keys, and KeysError if no
        key is authorized.
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
                f"no key may connect to {endpoint}: run `airdraft keys invite --role draft` "
                f"or `airdraft keys add` first"
            )
        # A separate store, because handshakes are handled in another thread.
        handshakes = self.authorized()
        return ServerKeys(
            pair, lambda key: key in handshakes.nodes() or key in handshakes.invitations()
        )


def keyring_of(directory: str | None, environ: Mapping[str, str]) -> Keyring:
    """Returns the keyring of a directory or, without one, that of the environment.

    The environment has systemd's credentials, and a default directory.
    """
    private = private_endpoint(environ)
    if directory:
        return Keyring(Path(directory), private=private)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    return Keyring(
        default_keys_dir(environ),
        Path(credentials) if credentials else None,
        default_public_dir(environ),
        private,
    )


# -- the default places of a user's or service's keys, and of the user's own mesh ------------------


def default_keys_dir(environ: Mapping[str, str]) -> Path:
    """Returns AIRDRAFT_KEYS, else `keys` in systemd's state directory or the user's config."""
    if chosen := environ.get("AIRDRAFT_KEYS"):
        return Path(chosen)
    if state := environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "keys"
    config = environ.get("XDG_CONFIG_HOME") or str(_home() / ".config")
    return Path(config) / "airdraft" / "keys"


def default_public_dir(environ: Mapping[str, str]) -> Path | None:
    """Returns the directory `public` beside systemd's state directory, None if there is none.

    The services of one machine have separate users and state directories, and share this one.
    """
    state = environ.get("STATE_DIRECTORY")
    if not state or environ.get("AIRDRAFT_KEYS"):
        return None
    public = Path(state.split(":")[0]).with_name("public")
    return public if public.is_dir() else None


def private_endpoint(environ: Mapping[str, str]) -> str:
    """Returns a socket file in the user's runtime directory, else below the user's cache.

    Returns "" for a service with a state directory, because the services are several users.
    """
    if environ.get("STATE_DIRECTORY"):
        return ""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return f"ipc://{Path(runtime) / 'airdraft' / _SOCKET}"
    cache = environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else _home() / ".cache"
    return f"ipc://{base / 'airdraft' / 'run' / _SOCKET}"


def _home() -> Path:
    """Returns the user's home folder. Raises KeysError if it is unknown."""
    try:
        return Path.home()
    except RuntimeError:
        reason = "this user has no home folder: set the environment variable HOME"
        raise KeysError(reason) from None


def make_private(endpoint: str) -> None:
    """Create a private endpoint's directory. Raises EndpointError if other users may enter it."""
    path = ipc_path(endpoint)
    assert path is not None
    directory = Path(path).parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = directory.lstat()
    except OSError as error:
        reason = f"{directory} cannot be created ({error.strerror}): choose another with --listen"
        raise EndpointError(endpoint, reason) from error
    is_ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
    if not is_ours or info.st_mode & 0o077:
        reason = (
            f"other users may enter {directory}: own it with mode 700, or choose another "
            f"endpoint with --listen"
        )
        raise EndpointError(endpoint, reason)
