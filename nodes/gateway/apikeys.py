"""API keys of the gateway: a file of hashes that is read again whenever it has changed.

A key has 256 random bits, so its SHA-256 cannot be inverted by guessing. A slow hash is needed only
for passwords that people choose.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.errors import KeysError
from mesh.keys import is_name, read_toml, write_private
from nodes.telemetry.json_form import from_object

FILE_NAME: Final = "apikeys.toml"
SCOPES: Final = ("infer", "admin")
KEY_PREFIX: Final = "ad-"
_MAX_KEYS: Final = 1000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEADER: Final = "# Hashes of API keys; `airdraft apikeys` changes this file.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as stored. A limit of 0 means the gateway's own limit."""

    name: str
    sha256: str
    scopes: tuple[str, ...] = ("infer",)
    max_concurrent: int = 0
    max_tokens: int = 0
    max_choices: int = 0

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise KeysError(
                "the name of an API key must have 1 to 32 letters, digits, dots and hyphens, and "
                "begin with a letter or digit"
            )
        if not _SHA256.fullmatch(self.sha256):
            raise KeysError(f"API key {self.name}: sha256 must have 64 hexadecimal digits")
        if not self.scopes or set(self.scopes) - set(SCOPES):
            raise KeysError(f"API key {self.name}: scopes must be among {', '.join(SCOPES)}")
        for name in ("max_concurrent", "max_tokens", "max_choices"):
            if not 0 <= getattr(self, name) <= 1 << 20:
                raise KeysError(f"API key {self.name}: {name} must be 0 to {1 << 20}")


@dataclass(frozen=True, slots=True)
class _File:
    """The tables of a file of keys."""

    key: tuple[ApiKey, ...] = ()


# The key of requests that need none.
ANYBODY: Final = ApiKey(name="anybody", sha256="0" * 64, scopes=SCOPES)


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """The keys of one file, and one key from the settings; "" for none."""

    def __init__(self, path: Path, given: str = "") -> None:
        self.path = path
        self._given: tuple[ApiKey, ...] = ()
        if given:
            self._given = (ApiKey(name="given", sha256=digest(given), scopes=SCOPES),)
        self._stamp: tuple[int, ...] | None = None
        self._keys: tuple[ApiKey, ...] = ()

    def are_needed(self) -> bool:
        """Whether a key was given or the file exists, readable or not. Raises KeysError if that
        cannot be determined."""
        if self._given:
            return True
        try:
            self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise KeysError(f"{self.path}: {error.strerror}") from error
        return True

    def all(self) -> tuple[ApiKey, ...]:
        """The keys of the file. Raises KeysError for an invalid file; no key is accepted then."""
        stamp = _stamp(self.path)
        if stamp is None or stamp != self._stamp:
            self._stamp, self._keys = None, ()
            if stamp is not None:
                self._keys = _parsed(self.path)
            self._stamp = stamp
        return self._keys

    def find(self, key: str) -> ApiKey | None:
        """Find a key, or return None. All keys are compared, each in constant time."""
        wanted = digest(key)
        found = None
        for entry in (*self._given, *self.all()):
            if hmac.compare_digest(entry.sha256, wanted):
                found = entry
        return found

    def is_empty(self) -> bool:
        """Whether there are no keys at all. Raises KeysError as all() does."""
        return not (self._given or self.all())

    def add(self, entry: ApiKey) -> None:
        """Add a key to the file. Raises KeysError if the name is taken or the file is full."""
        with self._lock():
            entries = self.all()
            if any(other.name == entry.name for other in entries):
                raise KeysError(f"an API key {entry.name} exists already: remove it first")
            if len(entries) >= _MAX_KEYS:
                raise KeysError(
                    f"{self.path} has {_MAX_KEYS} keys, which is the maximum: remove one"
                )
            self._write((*entries, entry))

    def remove(self, name: str) -> None:
        """Remove a key from the file. Raises KeysError if no key has this name."""
        with self._lock():
            entries = self.all()
            rest = tuple(entry for entry in entries if entry.name != name)
            if len(rest) == len(entries):
                raise KeysError(f"{self.path} has no API key {name!r}")
            self._write(rest)

    def _write(self, entries: tuple[ApiKey, ...]) -> None:
        write_private(self.path, _HEADER + "".join(_row(entry) for entry in entries))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.parent / ".apikeys.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise KeysError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    if info.st_mode & 0o077:
        raise KeysError(f"{path} can be read by others (mode {info.st_mode & 0o777:o}): chmod 600")
    return (info.st_mtime_ns, info.st_ino, info.st_size, info.st_mode)


def _row(entry: ApiKey) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in entry.scopes)
    return (
        f'\n[[key]]\nname = "{entry.name}"\nsha256 = "{entry.sha256}"\nscopes = [{scopes}]\n'
        f"max_concurrent = {entry.max_concurrent}\nmax_tokens = {entry.max_tokens}\n"
        f"max_choices = {entry.max_choices}\n"
    )


def _parsed(path: Path) -> tuple[ApiKey, ...]:
    try:
        content = read_toml(path)
    except FileNotFoundError:
        return ()
    if set(content) - {"key"}:
        raise KeysError(f"{path}: only tables [[key]] are accepted")
    try:
        entries = from_object(_File, content).key
    except ValueError as error:
        raise KeysError(f"{path}: {error}") from None
    if len(entries) > _MAX_KEYS:
        raise KeysError(f"{path} has {len(entries)} keys, at most {_MAX_KEYS} are accepted")
    if len({entry.name for entry in entries}) < len(entries):
        raise KeysError(f"{path}: two keys have the same name")
    return entries
