"""Looks up the owner of a message's key, and replaces invitations by machines' own keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from airdraft.mesh.authorized import AuthorizedNodes, Entries
from airdraft.mesh.errors import KeysError
from airdraft.mesh.messages import EnrolReply, EnrolRequest
from airdraft.nodes.messages.access import ANYBODY, GUEST, Caller

logger = logging.getLogger(__name__)

_MAX_REASON = 256
_MAX_LEFT_PEERS = 64
# Nodes and clients of one machine.
_MAX_MEMBERS_OF_KEY = 256
_NOBODY: Entries = {}
_POLL_S = 1.0


class Authentication:
    """Checks the key of each message against the files of authorized keys.

    open_files: returns a new store, one for each thread; None where links need no keys.
    """

    def __init__(self, open_files: Callable[[], AuthorizedNodes] | None) -> None:
        self._open_files = open_files
        self._store = open_files() if open_files is not None else None
        self._last_error = ""
        self._checked: Entries | None = None
        self._last_seen: Entries | None = None
        # Of the authorized keys, as revoked() saw them last.
        self.names: tuple[str, ...] = ()
        # Keys by peer, of recent senders; the key of a connection never changes.
        self._keys: dict[bytes, str] = {}

    def caller(self, peer: bytes, key: str) -> Caller | None:
        """Returns the sender of a message; None if its key is not, or no longer, authorized."""
        if self._store is None:
            return ANYBODY
        entry = self._nodes().get(key)
        if entry is not None:
            self._keys[peer] = key
            return Caller(entry.name, entry.roles)
        invited = self._ask(lambda store: store.invitations()).get(key)
        return None if invited is None else Caller("", frozenset({GUEST}))

    def _nodes(self) -> Entries:
        return self._ask(lambda store: store.nodes())

    def _ask(self, question: Callable[[AuthorizedNodes], Entries]) -> Entries:
        """Query the store; an unreadable file authorizes no key."""
        if self._store is None:
            return _NOBODY
        try:
            entries = question(self._store)
        except KeysError as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                logger.error("no key is authorized: %s", error)
            return _NOBODY
        return entries

    def revoked(self, members: dict[bytes, str]) -> list[bytes]:
        """Returns the members whose key no longer has the role they joined in.

        members: the role of each member, by peer.
        """
        if self._store is None:
            return []
        nodes = self._nodes()
        # An editor may truncate a file before it writes it, so only a content seen twice counts.
        is_settled, self._last_seen = nodes is self._last_seen, nodes
        if len(self._keys) > len(members) + _MAX_LEFT_PEERS:
            self._keys = {peer: key for peer, key in self._keys.items() if peer in members}
        if nodes is self._checked or not is_settled:
            return []
        self._checked = nodes
        self.names = tuple(sorted({entry.name for entry in nodes.values()}))
        out = []
        for peer, role in members.items():
            entry = nodes.get(self._keys.get(peer, ""))
            if entry is None or role not in entry.roles:
                out.append(peer)
        return out

    def is_crowded(self, key: str, members: Collection[bytes]) -> bool:
        """Whether a key has reached its limit of members."""
        if self._store is None:
            return False
        return sum(self._keys.get(peer) == key for peer in members) >= _MAX_MEMBERS_OF_KEY

    async def keep_expiring(self) -> None:
        """Remove invitations soon after they have expired, as long as the coordinator runs."""
        store, last_error = self._open_files() if self._open_files is not None else None, ""
        while store is not None:
            try:
                await asyncio.to_thread(store.drop_expired)
            except KeysError as error:
                if str(error) != last_error:
                    last_error = str(error)
                    logger.error("expired invitations cannot be removed: %s", error)
            await asyncio.sleep(_POLL_S)

    def enrol(self, key: str, request: EnrolRequest) -> EnrolReply:
        """Authorize another key in place of this one. It blocks on files: call it in a thread."""
        if self._open_files is None:
            return EnrolReply("this coordinator uses no keys", "", ())
        store = self._open_files()
        try:
            if key in store.nodes():
                entry = store.replace(key, request.public_key)
            else:
                entry = store.enrol(key, request.public_key, request.name)
        except KeysError as error:
            return EnrolReply(str(error)[:_MAX_REASON], "", ())
        logger.info("%s is authorized with a new key", entry.name)
        return EnrolReply("", entry.name, tuple(sorted(entry.roles)))
