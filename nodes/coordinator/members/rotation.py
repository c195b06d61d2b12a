"""The key that the coordinator will change to: told to every member before it does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mesh.errors import KeysError
from mesh.messages import KeyNotice

logger = logging.getLogger(__name__)

_POLL_S = 1.0


class Rotation:
    """read_next: the next public key, "" if there is none; None where links need no keys."""

    def __init__(self, read_next: Callable[[], str] | None) -> None:
        self._read_next = read_next
        self._next_key = ""
        self._last_error = ""
        self._looked_at = float("-inf")

    def notice(self, now: float) -> KeyNotice | None:
        """For who has just been welcomed."""
        if self._read_next is None:
            return None
        if self._looked_at < 0:
            # The first member: nobody else is to be told.
            self.changed(now)
        return KeyNotice(self._next_key)

    def changed(self, now: float) -> KeyNotice | None:
        """For all members, where the next key is another than a second ago."""
        if self._read_next is None or now < self._looked_at + _POLL_S:
            return None
        self._looked_at = now
        try:
            found = self._read_next()
        except KeysError as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                logger.error("the next key of the coordinator is not told: %s", error)
            return None
        if found == self._next_key:
            return None
        self._next_key = found
        return KeyNotice(found)
