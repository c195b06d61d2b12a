"""CURVE keys and their files. Secrets are accessible only through `KeyPair.secret`."""

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from airdraft.mesh.errors import KeysError
from airdraft.mesh.json_form import as_object, from_object
from airdraft.mesh.whole_files import write_whole

# 32 bytes as 40 characters (ZeroMQ RFC 32), none of which needs an escape in TOML.
_KEY: Final = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
# Twice what the most rows of a file take (private_rows.MAX_ROWS), each of some 220 bytes.
_MAX_FILE_BYTES: Final = 1 << 22

OWN_KEY_FILE: Final = "node.key"
# The next own key, which the coordinator may not know yet.
NEXT_KEY_FILE: Final = "node.key.next"
COORDINATOR_KEY_FILE: Final = "coordinator.key"
# The coordinator's public key, for nodes of its own machine.
COORDINATOR_PUBLIC_FILE: Final = "coordinator.pub"
COORDINATOR_FILE: Final = "coordinator.toml"
AUTHORIZED_FILE: Final = "authorized_nodes.toml"
INVITATIONS_FILE: Final = "invitations.toml"

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, each key as 40 characters of Z85. Its repr omits the secret."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KnownCoordinator:
    """The endpoint and public key of the coordinator that a node has joined."""

    endpoint: str
    key: str


@dataclass(frozen=True, slots=True)
class CoordinatorPublic:
    """The public key of a coordinator."""

    key: str


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """The keys of a connecting side: its own pair, and the key that the other side must have."""

    own: KeyPair
    server_key: str


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def read_key_pair(path: Path, *, is_credential: bool = False) -> KeyPair | None:
    """Returns the pair in a secret file, None if there is no file.

    is_credential: systemd has put it there, and grants one user access by an ACL that looks like
    group permissions. Raises KeysError if other users may read it, or it holds no pair.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysError(f"key file {path}: {error.strerror}") from error
    if not stat.S_ISREG(info.st_mode):
        raise KeysError(f"key file {path} is not a regular file: remove it")
    if info.st_mode & (0o037 if is_credential else 0o077):
        raise KeysError(
            f"other users can read key file {path} (mode {info.st_mode & 0o777:o}): "
            f"run chmod 600 on it, and rotate the key if they may have read it"
        )
    if info.st_uid not in (0, os.geteuid()):
        raise KeysError(f"key file {path} belongs to another user: run chown on it")
    # None even now, if a rotation has just renamed or removed it.
    return _read(path, KeyPair)


def write_key_pair(path: Path, pair: KeyPair) -> None:
    """Write a pair to a file that only its owner can read, replacing an existing one whole."""
    header = "# Secret: whoever can read this file can act as this node.\n"
    write_private(path, header + as_toml(pair))


def read_public(path: Path) -> CoordinatorPublic | None:
    """Returns what write_public() has written, None if there is no file. Raises KeysError.

    Only the owner may be able to write the file, because it could lead nodes to another
    coordinator.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    if mode & 0o022:
        raise KeysError(f"other users can change {path}: run chmod 644 on it")
    return _read(path, CoordinatorPublic)


def write_public(path: Path, public: CoordinatorPublic) -> None:
    """Write a public key to a file that every user with access to the directory can read."""
    header = "# Written by `airdraft keys` and by the coordinator when it starts; no secret.\n"
    try:
        write_whole(path, (header + as_toml(public)).encode(), 0o644, masked=False)
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from error


def read_coordinator(path: Path) -> KnownCoordinator | None:
    """Returns what `airdraft join` has written, None if there is no file. Raises KeysError."""
    return _read(path, KnownCoordinator, "; run `airdraft join` again")


def write_coordinator(path: Path, known: KnownCoordinator) -> None:
    write_private(path, as_toml(known))


def _read(path: Path, cls: type[K], remedy: str = "") -> K | None:
    """Returns the keys in a file, None if there is no file. Raises KeysError."""
    try:
        found = from_object(cls, read_toml(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise KeysError(f"{path}: {error}{remedy}") from None
    keys = (text for name, text in as_object(found).items() if name != "endpoint")
    if not all(map(is_key, keys)):
        raise KeysError(f"{path}: a key is 40 characters of Z85{remedy}")
    return found


def as_toml(row: object) -> str:
    """Returns the fields of a dataclass as lines of TOML, without those that have their
    defaults."""
    # Numbers, texts and lists of texts look in TOML as they do in JSON.
    values = as_object(row).items()
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values)


def read_toml(path: Path) -> Mapping[str, Any]:
    """Read a small TOML file. Raises FileNotFoundError, and KeysError for all other failures."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise KeysError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # Quote only the line number, because the text may hold a secret.
        where = re.search(r"at line \d+", str(error))
        raise KeysError(f"{path} is not valid TOML {where[0] if where else ''}".rstrip()) from None


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from error
