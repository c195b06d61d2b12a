"""What rounds of each draft node would take one target's streams: where the next one goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.load import DraftLoad
from nodes.scheduler.drafting.sharing import Sharer, longest_s, shares

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
        """Seconds of a typical round of the streams that a node holds, and of some more; on a
        medium that it shares, of all that hold streams there: messages wait for one another.

        Rounds of other targets go one after the other with it: a node whose streams are all of
        this one answers sooner.
        """
        nodes = [node, *(other for other in self._beside(node) if other.name != node.name)]
        sharers = self._sharers(nodes)
        counts = [each.held for each in sharers]
        counts[0] += num_more
        return self._rtt_s(node) + longest_s(sharers, counts)

    def next_on_medium(self, nodes: Sequence[DraftNode]) -> DraftNode:
        """Which of some nodes of one medium should have the next stream.

        One that holds none yet only where that is better by far: what has begun with it goes on.
        """
        if len(nodes) == 1:
            return nodes[0]
        sharers = self._sharers(nodes)
        num_streams = 1 + sum(each.held for each in sharers)
        counts = shares(sharers, num_streams)
        used = [replace(each, room=each.room if each.held else 0) for each in sharers]
        as_before = shares(used, num_streams)
        least_s = longest_s(sharers, as_before) * (1.0 - _REBALANCE_GAIN)
        if sum(as_before) == num_streams and longest_s(sharers, counts) > least_s:
            counts = as_before
        wanted = [count - each.held for count, each in zip(counts, sharers, strict=True)]
        return nodes[max(range(len(nodes)), key=wanted.__getitem__)]

    def better_beside(
        self, here: DraftNode, refused: Collection[str]
    ) -> tuple[DraftNode, float] | None:
        """Where on its medium a stream of a node should go instead, and its part of the seconds a
        round that all streams there save when all have gone who should.

        None where that is too little to be told from noise. Nodes that other targets use stay as
        they are: see below.
        """
        if self._others(here):
            return None
        nodes = [here]
        for other in self._beside(here):
            if other.name not in {here.name, *refused} and not other.is_silent:
                nodes += [] if self._others(other) else [other]
        if len(nodes) == 1:
            return None
        sharers = self._sharers(nodes)
        held = [each.held for each in sharers]
        counts = shares(sharers, sum(held))
        wanted = [count - num for count, num in zip(counts, held, strict=True)]
        there = max(range(len(nodes)), key=wanted.__getitem__)
        if wanted[0] >= 0 or wanted[there] <= 0 or sum(wanted) != 0:
            return None
        now_s, then_s = longest_s(sharers, held), longest_s(sharers, counts)
        if now_s - then_s < _REBALANCE_GAIN * (now_s + self._rtt_s(here)):
            return None
        num_moves = sum(num for num in wanted if num > 0)
        return nodes[there], (now_s - then_s) * sum(held) / num_moves

    def better_elsewhere(
        self, here: DraftNode, others: Iterable[DraftNode], num_tokens: int
    ) -> tuple[DraftNode, float] | None:
        """Where a stream of so many tokens should go instead, of nodes that do not share a medium
        with its own, and seconds a round that it saves there. None where that is too little."""
        apart = [n for n in others if not n.link.medium or n.link.medium != here.link.medium]
        saved = [(self._saved_by_a_move(here, other, num_tokens), other) for other in apart]
        saved_s, best = max(saved, key=lambda pair: pair[0], default=(0.0, here))
        return (best, saved_s) if saved_s > 0.0 else None

    def _saved_by_a_move(self, here: DraftNode, there: DraftNode, num_tokens: int) -> float:
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
        if sum(at_there) + here.num_streams + there.num_streams > there.max_streams:
            return 0.0
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

    def _sharers(self, nodes: Sequence[DraftNode]) -> list[Sharer]:
        # Texts go with their streams: they are as long on any node.
        own_cells = max(node.own_cells for node in nodes)
        return [self._sharer(node, own_cells) for node in nodes]

    def _sharer(self, node: DraftNode, own_cells: float) -> Sharer:
        others = self._others(node)
        others_s = _drafts_s(node, others)
        drafts_s = node.typical_drafts(own_cells)
        return Sharer(
            lambda num_streams: others_s + drafts_s(num_streams),
            node.typical_messages_s,
            node.num_streams,
            max(0, node.max_streams - sum(others)),
        )

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
        if not medium:
            return [node]
        return [n for n in self._nodes.values() if n.link.medium == medium]


def _drafts_s(node: DraftNode, by_target: Sequence[int]) -> float:
    """Seconds that a node drafts for a round of each of some targets, streams of each given."""
    return sum(node.typical_draft_s(num_streams) for num_streams in by_target if num_streams)
