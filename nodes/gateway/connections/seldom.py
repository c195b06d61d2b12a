"""Warnings about what strangers can repeat as often as they like."""

import logging
from typing import Final

_INTERVAL_S: Final = 10.0


class SeldomWarnings:
    """Writes each warning at most once in 10 s."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._written_at = dict[str, float]()

    def write(self, now: float, text: str, *arguments: object) -> None:
        """text: without what differs from time to time, since it says which warning it is."""
        written_at = self._written_at.get(text)
        if written_at is None or now - written_at >= _INTERVAL_S:
            self._written_at[text] = now
            self._logger.warning(text, *arguments)
