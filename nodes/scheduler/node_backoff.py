"""Back-off of a stream from draft nodes that failed it, longer each time. Pure."""

from __future__ import annotations

import math

# Tokens of the stream until a node is considered again; the number doubles each time.
_FIRST_TOKENS = 64
_MOST_TOKENS = 4096


class NodeBackoff:
    """The draft nodes that a stream avoids for a while.

    A full node may have room later, and a late node may be fast again, but each attempt sends it
    the text.
    """

    def __init__(self) -> None:
        # By node: the stream's length from which on it may be tried again, and the tokens waited.
        self._off: dict[str, tuple[float, int]] = {}

    def add(self, node: str, length: int, *, for_good: bool = False) -> None:
        """Avoid a node for some tokens beyond the stream's present length.

        for_good: for ever, because the node's reason will not change.
        """
        _, waited = self._off.get(node, (0.0, 0))
        wait = min(_MOST_TOKENS, max(_FIRST_TOKENS, 2 * waited))
        self._off[node] = (math.inf if for_good else length + wait, wait)

    def at(self, length: int) -> frozenset[str]:
        """Returns the nodes that the stream avoids at this length."""
        return frozenset(node for node, (end, _) in self._off.items() if length < end)

    def forget(self, node: str) -> None:
        """Forget a node that has started anew."""
        self._off.pop(node, None)

    def clear(self) -> None:
        self._off.clear()
