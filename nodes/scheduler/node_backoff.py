"""Draft nodes that a stream is kept off: for a while, and each time for longer. Pure."""

from __future__ import annotations

import math

# Tokens of the stream until a node is thought of again, twice as many each time.
_FIRST_TOKENS = 64
_MOST_TOKENS = 4096


class NodeBackoff:
    """A node that was full may have room later, one that was late may be quick again; asking costs
    a text on the way each time."""

    def __init__(self) -> None:
        # By node: the stream's length from which on it may be asked, and what was waited for.
        self._off: dict[str, tuple[float, int]] = {}

    def add(self, node: str, length: int, *, for_good: bool = False) -> None:
        """Keep a stream that has so many tokens off a node. for_good: what the node said of it
        will not change."""
        _, waited = self._off.get(node, (0.0, 0))
        wait = min(_MOST_TOKENS, max(_FIRST_TOKENS, 2 * waited))
        self._off[node] = (math.inf if for_good else length + wait, wait)

    def at(self, length: int) -> frozenset[str]:
        """The nodes that it is kept off when it has so many tokens."""
        return frozenset(node for node, (end, _) in self._off.items() if length < end)

    def forget(self, node: str) -> None:
        """It starts anew: nothing of what was is true of it any more."""
        self._off.pop(node, None)

    def clear(self) -> None:
        self._off.clear()
