"""The authorized public keys with names and roles, and the open invitations.

Both files are read again when they have changed, so a revoked key is refused at its next message.
All processes make changes under one lock.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mesh.errors import KeysError
from mesh.keys import AUTHORIZED_FILE, INVITATIONS_FILE, is_key, is_name, read_toml, write_private

_LOCK_FILE: Final = ".lock"
_LOCK_LIMIT_S: Final = 5.0
_LOCK_POLL_S: Final = 0.02
_MAX_ENTRIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's owner. expires_unix: wall-clock seconds at which an invitation expires, else 0."""

    key: str
    name: str
    roles: frozenset[str]
    expires_unix: int = 0


Entries = Mapping[str, Entry]
_Stamp = tuple[int, int, int, int] | None


class AuthorizedNodes:
    """The files of one directory. known_roles: the accepted names of roles."""

    def __init__(
        self,
        directory: Path,
        known_roles: frozenset[str],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._nodes_path = directory / AUTHORIZED_FILE
        self._invitations_path = directory / INVITATIONS_FILE
        self._known_roles = known_roles
        self._wall_clock = wall_clock
        self._cache: dict[Path, tuple[_Stamp, Entries]] = {}

    def nodes(self) -> Entries:
        """Return the entries by key. Raises KeysError for a malformed file."""
        return self._read(self._nodes_path, "node")

    def invitations(self) -> Entries:
        """Return the invitations that have not expired, by key."""
        now = self._wall_clock()
        found = self._read(self._invitations_path, "invitation")
        return {key: entry for key, entry in found.items() if entry.expires_unix > now}

    def add(self, entry: Entry) -> None:
        """Authorize a key. Raises KeysError if key or name are taken."""
        with self._lock():
            nodes = self.nodes()
            if entry.key in nodes:
                raise KeysError(f"that key is already authorized as {nodes[entry.key].name}")
            self._check_free(entry)
            self._write(self._nodes_path, "node", [*nodes.values(), entry])

    def revoke(self, key_or_name: str) -> list[Entry]:
        """Remove the authorized keys and open invitations with this key or name.

        Raises KeysError if there are none.
        """
        with self._lock():
            revoked = []
            for path, table, entries in (
                (self._nodes_path, "node", self.nodes()),
                (self._invitations_path, "invitation", self.invitations()),
            ):
                found = [e for e in entries.values() if key_or_name in (e.key, e.name)]
                if found:
                    rest = [e for e in entries.values() if e not in found]
                    self._write(path, table, rest)
                    revoked += found
            if not revoked:
                raise KeysError(f"no authorized node has the key or name {key_or_name!r}")
            return revoked

    def replace(self, old: str, new: str) -> Entry:
        """Let a new key take an old one's name and roles. Raises KeysError."""
        with self._lock():
            nodes = self.nodes()
            if old not in nodes:
                raise KeysError("the old key is not, or no longer, authorized")
            if new == old:
                return nodes[old]
            if new in nodes:
                raise KeysError("the new key is already authorized")
            entry = replace(nodes[old], key=new)
            self._check(entry, self._nodes_path)
            rest = [entry if other.key == old else other for other in nodes.values()]
            self._write(self._nodes_path, "node", rest)
            return entry

    def invite(self, entry: Entry) -> list[Entry]:
        """Let the holder of a one-use key enrol its own key until the invitation expires.

        Returns the open invitations of the same name, which can no longer be used.
        """
        with self._lock():
            self._check(entry, self._invitations_path)
            if entry.name and any(e.name == entry.name for e in self.nodes().values()):
                raise KeysError(f"the name {entry.name} is taken: choose another")
            waiting = self.invitations().values()
            replaced = [e for e in waiting if entry.name and e.name == entry.name]
            rest = [e for e in waiting if e not in replaced]
            self._write(self._invitations_path, "invitation", [*rest, entry])
            return replaced

    def enrol(self, invited: str, key: str, name: str) -> Entry:
        """Use up an invitation: `key` gets its roles. A KeysError leaves the invitation open."""
        with self._lock():
            invitation = self.invitations().get(invited)
            if invitation is None:
                raise KeysError("the invitation has been used or has expired: request another one")
            entry = Entry(key, invitation.name or self._free_name(name), invitation.roles)
            known = self.nodes().get(key)
            # A machine whose EnrolReply was lost uses another invitation for the same key.
            if known is not None:
                entry = replace(known, roles=known.roles | invitation.roles)
            self._check_free(entry)
            # Remove the invitation first, so that it admits no one else if a later step fails.
            rest = [e for e in self.invitations().values() if e.key != invited]
            self._write(self._invitations_path, "invitation", rest)
            others = [e for e in self.nodes().values() if e.key != key]
            self._write(self._nodes_path, "node", [*others, entry])
            return entry

    def _free_name(self, name: str) -> str:
        """Return the name, with a number if it is taken: similar machines share host names."""
        taken = {entry.name for entry in self.nodes().values()}
        numbered = (f"{name[:28]}-{number}" for number in range(2, _MAX_ENTRIES))
        return name if name not in taken else next(n for n in numbered if n not in taken)

    def _check_free(self, entry: Entry) -> None:
        """Raise KeysError if an entry is invalid or its name belongs to another key."""
        self._check(entry, self._nodes_path)
        for other in self.nodes().values():
            if other.name == entry.name and other.key != entry.key:
                raise KeysError(
                    f"the name {entry.name} is taken: choose another, or revoke it first"
                )

    # -- files ---------------------------------------------------------------------------------

    def _read(self, path: Path, table: str) -> Entries:
        stamp = _stamp(path)
        cached = self._cache.get(path)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        # A malformed file authorizes no key and is read again at the next message.
        self._cache.pop(path, None)
        entries = self._parse(path, table) if stamp is not None else {}
        if stamp is not None and stamp[3] & 0o022:
            raise KeysError(f"other users can change {path}: run chmod 600 on it")
        self._cache[path] = (stamp, entries)
        return entries

    def _parse(self, path: Path, table: str) -> Entries:
        try:
            content = read_toml(path)
        except FileNotFoundError:
            return {}
        rows = content.get(table, [])
        unknown = set(content) - {table}
        if unknown or not isinstance(rows, list) or len(rows) > _MAX_ENTRIES:
            raise KeysError(f"{path}: tables [[{table}]] are accepted, {_MAX_ENTRIES} at most")
        entries: dict[str, Entry] = {}
        for row in rows:
            entry = self._entry(row, path, table)
            if entry.key in entries:
                raise KeysError(f"{path}: the key of {entry.name} occurs twice")
            entries[entry.key] = entry
        names = [entry.name for entry in entries.values() if entry.name]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise KeysError(f"{path}: the name {twice} occurs twice")
        return entries

    def _entry(self, row: Any, path: Path, table: str) -> Entry:
        known = {"key", "name", "roles"} | ({"expires_unix"} if table == "invitation" else set())
        if not isinstance(row, dict) or set(row) - known:
            raise KeysError(f"{path}: a [[{table}]] has {', '.join(sorted(known))}")
        key, name, roles = row.get("key"), row.get("name", ""), row.get("roles")
        expires = row.get("expires_unix", 0)
        if not isinstance(key, str) or not isinstance(name, str) or not isinstance(roles, list):
            raise KeysError(f"{path}: key and name are texts, roles a list")
        if not all(isinstance(role, str) for role in roles):
            raise KeysError(f"{path}: roles are texts")
        if type(expires) is not int:
            raise KeysError(f"{path}: expires_unix is a whole number of seconds")
        try:
            self._check(entry := Entry(key, name, frozenset(roles), expires), path)
        except KeysError as error:
            raise KeysError(f"{path}: {error}") from None
        return entry

    def _check(self, entry: Entry, path: Path) -> None:
        if not is_key(entry.key):
            raise KeysError(
                f"the key of {entry.name or 'an invitation'} is not 40 characters of Z85"
            )
        may_be_nameless = path == self._invitations_path and not entry.name
        if not may_be_nameless and not is_name(entry.name):
            raise KeysError(
                f"name {entry.name!r}: 1 to 32 letters, digits, dots, dashes are accepted"
            )
        if not entry.roles or entry.roles - self._known_roles:
            wrong = ", ".join(sorted(entry.roles - self._known_roles)) or "none"
            raise KeysError(
                f"roles of {entry.name or 'the invitation'}: {wrong}; "
                f"{', '.join(sorted(self._known_roles))} are accepted"
            )

    def _write(self, path: Path, table: str, entries: list[Entry]) -> None:
        lines = ["# Written by `airdraft keys`; read again whenever it changes.\n"]
        for entry in entries:
            roles = ", ".join(f'"{role}"' for role in sorted(entry.roles))
            lines.append(f'\n[[{table}]]\nkey = "{entry.key}"\nname = "{entry.name}"\n')
            lines.append(f"roles = [{roles}]\n")
            if entry.expires_unix:
                lines.append(f"expires_unix = {entry.expires_unix}\n")
        write_private(path, "".join(lines))
        # Two changes within one clock tick may leave the same stamp.
        self._cache.pop(path, None)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._nodes_path.with_name(_LOCK_FILE)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise KeysError(f"{path}: {error.strerror}") from error
        try:
            deadline = time.monotonic() + _LOCK_LIMIT_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise KeysError(f"{path} is held by another process") from None
                    time.sleep(_LOCK_POLL_S)
                except OSError as error:
                    raise KeysError(f"{path} cannot be locked: {error.strerror}") from error
            yield
        finally:
            os.close(descriptor)


def _stamp(path: Path) -> _Stamp:
    """Return a stamp that differs between contents of a file, which is always replaced whole."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size, info.st_mode
