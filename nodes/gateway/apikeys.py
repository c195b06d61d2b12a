"""API keys of the gateway: a file of hashes that is read again whenever it has changed.

A key has 256 random bits, so its SHA-256 cannot be inverted by guessing. A slow hash is needed only
for passwords that people choose.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airdraft.mesh.errors import KeysError
from airdraft.mesh.keys import is_name
from airdraft.mesh.private_rows import RowFile, locked

FILE_NAME: Final = "apikeys.toml"
SCOPES: Final = ("infer", "admin")
KEY_PREFIX: Final = "ad-"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


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
        self._lock = path.with_name(".apikeys.lock")
        self._file = RowFile(path, "key", ApiKey, ("name",), refused_mode=0o077)

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
        return tuple(self._file.rows().values())

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
        """Add a key to the file. Raises KeysError if the name is taken."""
        with locked(self._lock):
            if entry.name in self._file.rows():
                raise KeysError(f"an API key {entry.name} exists already: remove it first")
            self._file.write([*self.all(), entry])

    def remove(self, name: str) -> None:
        """Remove a key from the file. Raises KeysError if no key has this name."""
        with locked(self._lock):
            if name not in self._file.rows():
                raise KeysError(f"{self.path} has no API key {name!r}")
            self._file.write(entry for entry in self.all() if entry.name != name)
