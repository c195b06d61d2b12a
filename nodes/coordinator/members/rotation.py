"""Announces the coordinator's next key to every member before the change."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mesh.errors import KeysError
from mesh.messages import KeyNotice

logger = logging.getLogger(__name__)

_POLL_S = 1.0


class Rotation:
    """read_next: returns the next public key, "" if there is none; None without keys."""

    def __init__(self, read_next: Callable[[], str] | None) -> None:
        self._read_next = read_next
        self._next_key = ""
        self._last_error = ""
        self._looked_at = float("-inf")

    def notice(self, now: float) -> KeyNotice | None:
        """Return the notice for a member that has just been welcomed."""
        if self._read_next is None:
            return None
        if self._looked_at < 0:
            # This is the first member, so no other one needs the notice.
            self.changed(now)
        return KeyNotice(self._next_key)

    def changed(self, now: float) -> KeyNotice | None:
        """Return the notice for all members if the next key has changed; reads once a second."""
        if self._read_next is None or now < self._looked_at + _POLL_S:
            return None
        self._looked_at = now
        try:
            found = self._read_next()
        except KeysError as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                logger.error("the coordinator's next key cannot be announced: %s", error)
            return None
        if found == self._next_key:
            return None
        self._next_key = found
        return KeyNotice(found)
