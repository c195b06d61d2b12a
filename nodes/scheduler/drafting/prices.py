"""What rounds of each draft node would take one target's streams: where the next one goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.load import DraftLoad

# A stream goes to another node for rounds that are shorter by this much; times are noisy.
_REBALANCE_GAIN = 0.2
# Which of two nodes would be better is not told from less.
_ALIKE = 0.05


class RoundPrices:
    """Typical rounds of the draft nodes of one target.

    nodes: by name, those there are at any time. load: streams of all targets; target: the number
    of this one.
    """

    def __init__(self, nodes: Mapping[str, DraftNode], load: DraftLoad, target: int) -> None:
        self._nodes = nodes
        self._load = load
        self._target = target

    def round_s(self, node: DraftNode, *, num_more: int = 0) -> float:
        """Seconds of a typical round of the streams that a node holds, and of some more.

        Rounds of other targets go one after the other with it: a node whose streams are all of
        this one answers sooner.
        """
        return self._longest_s([(node, node.num_streams + num_more)])

    def round_with_one_more_s(self, node: DraftNode) -> float:
        """The same of one stream more, or of a node beside it that then takes longer.

        Messages of one round wait for one another on a medium that they share: a node that has no
        streams yet costs all others its messages.
        """
        beside = [n for n in self._beside(node) if n.num_streams and n.name != node.name]
        held = [(other, other.num_streams) for other in beside]
        return self._longest_s([(node, node.num_streams + 1), *held])

    def saved_by_a_move(self, here: DraftNode, there: DraftNode, num_tokens: int) -> float:
        """Seconds a round that a stream of so many tokens saves on another node; 0.0 if that is
        too little to be told from noise.

        Nor does one leave or join a node that other targets use, too: what is good for it alone may
        be bad for all, and all together would undo it.
        """
        if self._others(here) or self._others(there):
            return 0.0
        # Its own text is as long on either node.
        left = replace(here, own_cells=float(num_tokens))
        used_cells = there.used_cells + num_tokens
        other = replace(there, own_cells=float(num_tokens), used_cells=used_cells)
        if there in self._beside(here):
            rest = [n for n in self._beside(here) if n.name not in (here.name, there.name)]
            held = [(n, n.num_streams) for n in rest if n.num_streams]
            staying = [(there, there.num_streams)] if there.num_streams else []
            here_s = self._longest_s([(left, here.num_streams), *staying, *held])
            gone = [(left, here.num_streams - 1)] if here.num_streams > 1 else []
            there_s = self._longest_s([(other, there.num_streams + 1), *gone, *held])
        else:
            here_s = self.round_s(left)
            there_s = self.round_s(other, num_more=1)
        return here_s - there_s if there_s <= here_s * (1.0 - _REBALANCE_GAIN) else 0.0

    def to_share_less(
        self, here: DraftNode, others: Iterable[DraftNode]
    ) -> tuple[DraftNode, float] | None:
        """Where all streams that a node holds of this target should go, so that it drafts for a
        target less, and seconds a round that each of them saves: of its own rounds and of those of
        all other targets on both nodes.

        A stream that goes alone leaves as many targets behind on a node that several share; where
        each has some streams on every node none would ever go, and all wait for all.
        """
        if not self._others(here):
            return None
        saved = [(self._saved_by_all(here, other), other) for other in others]
        saved_s, best = max(saved, key=lambda pair: pair[0], default=(0.0, here))
        return (best, saved_s) if saved_s > 0.0 else None

    def _saved_by_all(self, here: DraftNode, there: DraftNode) -> float:
        """Seconds a round that each stream here saves if all go there; 0.0 if that is too little,
        or if those there should rather come here."""
        at_here, at_there = self._others(here), self._others(there)
        mine_s, before_s = self._waits_s(here, at_here, here.num_streams)
        before_s += self._waits_s(there, at_there, there.num_streams)[1]
        together = here.num_streams + there.num_streams
        all_there_s = self._waits_s(here, at_here, 0)[1]
        all_there_s += self._waits_s(there, at_there, together)[1]
        all_here_s = self._waits_s(here, at_here, together)[1]
        all_here_s += self._waits_s(there, at_there, 0)[1]
        saved_s = before_s - all_there_s
        if saved_s < _REBALANCE_GAIN * mine_s:
            return 0.0
        # Those there look here likewise: they must not change places.
        if abs(all_there_s - all_here_s) <= _ALIKE * all_here_s:
            goes = (there.num_streams, there.name) > (here.num_streams, here.name)
        else:
            goes = all_there_s < all_here_s
        return saved_s / here.num_streams if goes else 0.0

    def num_together(self, node: DraftNode) -> int:
        """Streams whose rounds are longer with one stream more on a node, that one included; of
        nodes with a medium of their own it is the only one that is asked."""
        if not node.link.medium:
            return 1
        return 1 + sum(other.num_streams for other in self._beside(node))

    def waiting_for(self, node: DraftNode) -> int:
        """Streams whose rounds wait while a text is told to a node."""
        return sum(self._load.of(other.name) for other in self._beside(node))

    def _others(self, node: DraftNode) -> Sequence[int]:
        return self._load.of_others(node.name, self._target)

    def _waits_s(self, node: DraftNode, others: Sequence[int], mine: int) -> tuple[float, float]:
        """Seconds of a round of so many streams of this target on a node, and of all there with
        those of others, one after the other."""
        round_s = _drafts_s(node, (*others, mine)) + self._rtt_s(node)
        return mine * round_s, (sum(others) + mine) * round_s

    def _longest_s(self, held: Sequence[tuple[DraftNode, int]]) -> float:
        """Seconds of a typical round of nodes on one medium, each with so many streams.

        Half of what the others have on the air is in a node's way, as in `policies/cycle.py`.
        """
        airs_s = [node.typical_messages_s(num_streams) for node, num_streams in held]
        shared_s = sum(airs_s)

        def round_s(node: DraftNode, num_streams: int, air_s: float) -> float:
            drafts_s = _drafts_s(node, (*self._others(node), num_streams))
            return self._rtt_s(node) + max(shared_s, drafts_s + (shared_s + air_s) / 2)

        return max(round_s(*each, air_s) for each, air_s in zip(held, airs_s, strict=True))

    def _rtt_s(self, node: DraftNode) -> float:
        """To a node and back, where it is compared with others.

        What messages wait for on a shared medium is the same whomever they are for, and what was
        last seen of it tells when each node was last heard of rather than which is nearer. Where
        there are other targets, rounds have waited for theirs, which is counted apart: then Pings
        alone tell of all nodes' ways.
        """
        if node.link.medium:
            heard_of = [other.rtt_s for other in self._beside(node) if other.link.rtt_s > 0.0]
            return min(heard_of, default=0.0)
        return node.link.rtt_s if self._load.is_of_several else node.rtt_s

    def _beside(self, node: DraftNode) -> list[DraftNode]:
        """The nodes that share its medium, itself included."""
        medium = node.link.medium
        nodes = self._nodes.values()
        return [n for n in nodes if n.name == node.name or (medium and n.link.medium == medium)]


def _drafts_s(node: DraftNode, by_target: Sequence[int]) -> float:
    """Seconds that a node drafts for a round of each of some targets, streams of each given."""
    return sum(node.typical_draft_s(num_streams) for num_streams in by_target if num_streams)
