"""What a target has read lately, and so has probably kept. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from airdraft.nodes.engine.protocol import common_prefix

# Four bytes a token: a million tokens, some hundred texts of agents. A target keeps fewer.
_MOST_BYTES: Final = 4_000_000
# Shorter texts are read anew in a moment.
_LEAST_TOKENS: Final = 256
_TOKEN_BYTES: Final = 4


class KnownTexts:
    """The texts of streams that were placed on a target, by owner."""

    def __init__(self) -> None:
        # Those that were placed longest ago first.
        self._texts: dict[tuple[str, bytes], None] = {}
        self._num_bytes = 0

    def note(self, owner: str, token_ids: Sequence[int]) -> None:
        """Note that the target reads a text. What it continues is the same text."""
        if len(token_ids) < _LEAST_TOKENS:
            return
        text = _packed(token_ids)
        for key in [key for key in self._texts if key[0] == owner and text.startswith(key[1])]:
            self._drop(key)
        self._texts[owner, text] = None
        self._num_bytes += len(text)
        while self._num_bytes > _MOST_BYTES:
            self._drop(next(iter(self._texts)))

    def num_known(self, owner: str, token_ids: Sequence[int]) -> int:
        """Returns how many tokens of a text the target has read for its owner."""
        text = _packed(token_ids)
        known = (common_prefix(other, text) for of, other in self._texts if of == owner)
        return max(known, default=0) // _TOKEN_BYTES

    def _drop(self, key: tuple[str, bytes]) -> None:
        del self._texts[key]
        self._num_bytes -= len(key[1])


def _packed(token_ids: Sequence[int]) -> bytes:
    return array("i", token_ids).tobytes()
