"""The authorized public keys with names and roles, and the open invitations.

Both files are read again when they have changed, so a revoked key is refused at its next message.
All processes make changes under one lock.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from airdraft.mesh.errors import KeysError
from airdraft.mesh.keys import AUTHORIZED_FILE, INVITATIONS_FILE, is_key, is_name
from airdraft.mesh.private_rows import RowFile, locked


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's owner.

    issued_unix, expires_unix: wall-clock seconds between which an invitation is valid, else 0.
    """

    key: str
    name: str
    roles: frozenset[str]
    expires_unix: int = 0
    issued_unix: int = 0


Entries = Mapping[str, Entry]
# A time server may set a clock back a little just after an invitation was issued.
_MAX_STEP_BACK_S: Final = 60


class AuthorizedNodes:
    """The files of one directory. known_roles: the accepted names of roles."""

    def __init__(
        self,
        directory: Path,
        known_roles: frozenset[str],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._known_roles = known_roles
        self._wall_clock = wall_clock
        self._lock = directory / ".lock"
        self._nodes = self._file(directory / AUTHORIZED_FILE, is_invitation=False)
        self._invitations = self._file(directory / INVITATIONS_FILE, is_invitation=True)

    def _file(self, path: Path, *, is_invitation: bool) -> RowFile[Entry]:
        table = "invitation" if is_invitation else "node"
        check = partial(self._check, is_invitation=is_invitation)
        return RowFile(path, table, Entry, ("key", "name"), refused_mode=0o022, check=check)

    def nodes(self) -> Entries:
        """Returns the entries by key. Raises KeysError for a malformed file."""
        return self._nodes.rows()

    def invitations(self) -> Entries:
        """Returns the invitations that are valid now, by key.

        None is valid before it was issued: then the clock is wrong, and it may have expired.
        """
        latest = self._wall_clock() + _MAX_STEP_BACK_S
        return {k: entry for k, entry in self._unexpired().items() if entry.issued_unix <= latest}

    def _unexpired(self) -> Entries:
        now = self._wall_clock()
        found = self._invitations.rows()
        return {key: entry for key, entry in found.items() if entry.expires_unix > now}

    def drop_expired(self) -> None:
        """Remove expired invitations, so that no clock that is set back makes them valid again."""
        if len(self._unexpired()) < len(self._invitations.rows()):
            with locked(self._lock):
                self._invitations.write(self._unexpired().values())

    def add(self, entry: Entry) -> None:
        """Authorize a key. Raises KeysError if key or name are taken."""
        with locked(self._lock):
            nodes = self.nodes()
            if entry.key in nodes:
                raise KeysError(f"that key is already authorized as {nodes[entry.key].name}")
            self._check_free(entry)
            self._nodes.write([*nodes.values(), entry])

    def revoke(self, key_or_name: str) -> list[Entry]:
        """Remove the authorized keys and open invitations with this key or name.

        Raises KeysError if there are none.
        """
        with locked(self._lock):
            revoked = []
            known = (self._nodes, self.nodes()), (self._invitations, self._unexpired())
            for file, entries in known:
                found = [e for e in entries.values() if key_or_name in (e.key, e.name)]
                if found:
                    file.write(e for e in entries.values() if e not in found)
                    revoked += found
            if not revoked:
                raise KeysError(f"no authorized node has the key or name {key_or_name!r}")
            return revoked

    def replace(self, old: str, new: str) -> Entry:
        """Let a new key take an old one's name and roles. Raises KeysError."""
        with locked(self._lock):
            nodes = self.nodes()
            if old not in nodes:
                raise KeysError("the old key is not, or no longer, authorized")
            if new == old:
                return nodes[old]
            if new in nodes:
                raise KeysError("the new key is already authorized")
            entry = replace(nodes[old], key=new)
            self._check(entry, is_invitation=False)
            self._nodes.write(entry if other.key == old else other for other in nodes.values())
            return entry

    def invite(self, entry: Entry) -> list[Entry]:
        """Let the holder of a one-use key enrol its own key until the invitation expires.

        Returns the open invitations of the same name, which can no longer be used.
        """
        with locked(self._lock):
            self._check(entry, is_invitation=True)
            if entry.name and any(e.name == entry.name for e in self.nodes().values()):
                raise KeysError(f"the name {entry.name} is taken: choose another")
            waiting = self._unexpired().values()
            replaced = [e for e in waiting if entry.name and e.name == entry.name]
            entry = replace(entry, issued_unix=int(self._wall_clock()))
            self._invitations.write([*(e for e in waiting if e not in replaced), entry])
            return replaced

    def enrol(self, invited: str, key: str, name: str) -> Entry:
        """Use up an invitation: `key` gets its roles. Raises KeysError.

        After an error the invitation is still open, unless the disk became full between two files.
        """
        with locked(self._lock):
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
            self._invitations.write(e for e in self._unexpired().values() if e.key != invited)
            others = [e for e in self.nodes().values() if e.key != key]
            self._nodes.write([*others, entry])
            return entry

    def _free_name(self, name: str) -> str:
        """Returns the name, with a number if it is taken: similar machines share host names."""
        taken = {entry.name for entry in self.nodes().values()}
        numbered = (f"{name[:28]}-{number}" for number in count(2))
        return name if name not in taken else next(n for n in numbered if n not in taken)

    def _check_free(self, entry: Entry) -> None:
        """Raise KeysError if an entry is invalid or its name belongs to another key."""
        self._check(entry, is_invitation=False)
        for other in self.nodes().values():
            if other.name == entry.name and other.key != entry.key:
                raise KeysError(
                    f"the name {entry.name} is taken: choose another, or revoke it first"
                )

    def _check(self, entry: Entry, *, is_invitation: bool) -> None:
        whose = entry.name or "an invitation"
        if not is_key(entry.key):
            raise KeysError(f"the key of {whose} is not 40 characters of Z85")
        if (entry.name or not is_invitation) and not is_name(entry.name):
            raise KeysError(
                f"name {entry.name!r}: 1 to 32 letters, digits, dots, dashes are accepted"
            )
        if (entry.expires_unix or entry.issued_unix) and not is_invitation:
            raise KeysError(f"expires_unix of {whose}: only invitations expire")
        if not entry.roles or entry.roles - self._known_roles:
            wrong = ", ".join(sorted(entry.roles - self._known_roles)) or "none"
            raise KeysError(
                f"roles of {whose}: {wrong}; {', '.join(sorted(self._known_roles))} are accepted"
            )
