"""CURVE keys and the files they are kept in. Secrets only ever leave through `KeyPair.secret`."""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mesh.errors import KeysError
from mesh.whole_files import write_whole

# 32 bytes as 40 characters (ZeroMQ RFC 32); none of them needs an escape in TOML.
_KEY: Final = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_MAX_FILE_BYTES: Final = 1 << 20

OWN_KEY_FILE: Final = "node.key"
# Drawn, but perhaps not known to the coordinator yet.
NEXT_KEY_FILE: Final = "node.key.next"
COORDINATOR_KEY_FILE: Final = "coordinator.key"
NEXT_COORDINATOR_KEY_FILE: Final = "coordinator.key.next"
# What nodes of the coordinator's own machine know it by.
COORDINATOR_PUBLIC_FILE: Final = "coordinator.pub"
COORDINATOR_FILE: Final = "coordinator.toml"
AUTHORIZED_FILE: Final = "authorized_nodes.toml"
INVITATIONS_FILE: Final = "invitations.toml"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, both as 40 characters of Z85. The secret is kept out of its repr."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KnownCoordinator:
    """What a node knows of the coordinator it joined: where it is, and its public key.

    next_key: the one that it said it would change to, "" if none.
    """

    endpoint: str
    key: str
    next_key: str = ""


@dataclass(frozen=True, slots=True)
class CoordinatorPublic:
    """The public key of a coordinator, and the one that it is to change to, "" if none."""

    key: str
    next_key: str = ""


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a connecting side needs: its own pair, and the key that the other side must have.

    next_server_key: the other side's key may have become this one. keep: called with both when
    the other side, under the first, has said what its next one is.
    """

    own: KeyPair
    server_key: str
    next_server_key: str = ""
    keep: Callable[[str, str], None] = field(default=lambda _key, _next: None, compare=False)


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def read_key_pair(path: Path, *, is_credential: bool = False) -> KeyPair | None:
    """The pair in a secret file, None if there is none.

    is_credential: systemd put it there, which lets one user in by an ACL that looks like a group.
    Raises KeysError where others may read it, or it holds no pair.
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
            f"key file {path} can be read by others (mode {info.st_mode & 0o777:o}): "
            f"chmod 600 it, and rotate the key if they may have"
        )
    if info.st_uid not in (0, os.geteuid()):
        raise KeysError(f"key file {path} belongs to another user: chown it")
    table = read_toml(path)
    public, secret = table.get("public"), table.get("secret")
    if not isinstance(public, str) or not isinstance(secret, str):
        raise KeysError(f"key file {path}: expected public and secret")
    if not is_key(public) or not is_key(secret):
        raise KeysError(f"key file {path}: a key is 40 characters of Z85")
    return KeyPair(public, secret)


def write_key_pair(path: Path, pair: KeyPair) -> None:
    """Keep a pair where only its owner can read it; an existing file is replaced whole."""
    text = f'public = "{pair.public}"\nsecret = "{pair.secret}"\n'
    write_private(path, "# Secret: whoever can read this file can act as this node.\n" + text)


def read_public(path: Path) -> CoordinatorPublic | None:
    """What `write_public` has kept, None if there is none. Raises KeysError.

    Whoever can write the file can lead nodes to another coordinator: it is its owner's alone.
    """
    try:
        mode = path.stat().st_mode
        table = read_toml(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    if mode & 0o022:
        raise KeysError(f"{path} can be changed by others: chmod 644 it")
    key, next_key = table.get("key"), table.get("next_key", "")
    if not isinstance(key, str) or not isinstance(next_key, str):
        raise KeysError(f"{path}: expected key and next_key")
    if not is_key(key) or (next_key and not is_key(next_key)):
        raise KeysError(f"{path}: a key is 40 characters of Z85")
    return CoordinatorPublic(key, next_key)


def write_public(path: Path, public: CoordinatorPublic) -> None:
    """Keep public keys where everybody on this machine who finds the directory can read them."""
    text = "# Written by `airdraft keys` and by the coordinator when it starts; no secret.\n"
    text += f'key = "{public.key}"\n'
    text += f'next_key = "{public.next_key}"\n' if public.next_key else ""
    try:
        write_whole(path, text.encode(), 0o644, masked=False)
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from error


def read_coordinator(path: Path) -> KnownCoordinator | None:
    """What `airdraft join` has written, None if there is none. Raises KeysError."""
    try:
        table = read_toml(path)
    except FileNotFoundError:
        return None
    endpoint, key, next_key = (table.get(name, "") for name in ("endpoint", "key", "next_key"))
    keys = [key, next_key] if next_key else [key]
    if not isinstance(endpoint, str) or not all(isinstance(k, str) and is_key(k) for k in keys):
        raise KeysError(f"{path}: expected endpoint and key; join anew")
    return KnownCoordinator(endpoint, key, next_key)


def write_coordinator(path: Path, known: KnownCoordinator) -> None:
    if any(c in known.endpoint for c in '"\\\n'):
        raise KeysError(f"endpoint {known.endpoint!r} has characters that cannot be kept")
    text = f'endpoint = "{known.endpoint}"\nkey = "{known.key}"\n'
    write_private(path, text + (f'next_key = "{known.next_key}"\n' if known.next_key else ""))


def read_toml(path: Path) -> Mapping[str, Any]:
    """A small TOML file. Raises FileNotFoundError, and KeysError for everything else."""
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
        # Only the place: the text may hold a secret.
        where = re.search(r"at line \d+", str(error))
        raise KeysError(f"{path} is not valid TOML {where[0] if where else ''}".rstrip()) from None


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from error
