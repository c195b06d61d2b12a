"""How many streams draft nodes hold, of all targets together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class DraftLoad:
    """Streams by draft node and target: rounds of several targets go one after the other with a
    node, each with a pass of its own. Targets are told apart by numbers."""

    def __init__(self) -> None:
        self._by_node: dict[str, Counter[int]] = {}
        self._num_targets = 0

    def new_target(self) -> int:
        """The number of a target more."""
        self._num_targets += 1
        return self._num_targets

    @property
    def totals(self) -> dict[str, int]:
        """Streams by draft node; none that holds none, for names of nodes come and go."""
        return {node: held.total() for node, held in self._by_node.items()}

    @property
    def is_of_several(self) -> bool:
        """Whether draft nodes hold streams of more targets than one."""
        return len({target for held in self._by_node.values() for target in held}) > 1

    def of(self, node: str) -> int:
        """Streams that a draft node holds."""
        return self._by_node[node].total() if node in self._by_node else 0

    def of_others(self, node: str, target: int) -> Sequence[int]:
        """Streams that a draft node holds of each other target, where it holds some."""
        held = self._by_node.get(node, Counter())
        return [num_streams for other, num_streams in held.items() if other != target]

    def add(self, node: str, target: int) -> None:
        self._by_node.setdefault(node, Counter())[target] += 1

    def remove(self, node: str, target: int) -> None:
        held = self._by_node[node]
        held[target] -= 1
        if not held[target]:
            del held[target]
        if not held:
            del self._by_node[node]
