"""The draft nodes of one target: who drafts for which stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Set
from dataclasses import replace

from nodes.messages import CloseStreamNotice
from nodes.scheduler.drafting.draft_model import DraftModel
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.load import DraftLoad
from nodes.scheduler.drafting.lookup import LOOKUP, LOOKUP_COSTS, Lookup
from nodes.scheduler.drafting.prices import RoundPrices
from nodes.scheduler.instructions import Instruction, ToDraft, open_request
from nodes.scheduler.stream import DraftPlacement, Stream
from nodes.scheduler.target_way import TargetWay
from policies.drafter import MOVE_GAIN, plain_token_s, token_s
from policies.latency import CostTable
from policies.plan import MAX_FREE_GAMMA, DraftView, Link

_TYPICAL_ROUND_TOKENS = 2.5
# One that has moved stays for a while: moves change what the next ones are judged by.
_SETTLED_TOKENS = 64
# Tokens by lookup after which what a draft node was worth before tells little of it.
_FADED_TOKENS = 512
# Streams on their way to another node at a time: each is decoded plainly until it has been read.
MOST_MOVING = 2
# Models that are remembered, those that no node runs included.
_MOST_MODELS = 32


class DraftPool:
    """All draft nodes that may draft for the target, and which streams they hold.

    gives_priors: a stream of which nothing is known begins with what is known of its draft model.
    lookup: guesses from the streams' own texts; as a draft node it is always there.
    load: streams of all targets, which the pools of these targets share. way: to the target.
    """

    def __init__(
        self,
        *,
        gives_priors: bool = True,
        lookup: Lookup | None = None,
        load: DraftLoad | None = None,
        way: TargetWay | None = None,
    ) -> None:
        self.way = TargetWay() if way is None else way
        self._nodes: dict[str, DraftNode] = {}
        # By their hashes, and longer than any node.
        self._models: dict[str, DraftModel] = {}
        self._load = DraftLoad() if load is None else load
        self._target = self._load.new_target()
        self._prices = RoundPrices(self._nodes, self._load, self._target)
        self._gives_priors = gives_priors
        self.lookup = lookup
        self._by_lookup = DraftNode(LOOKUP, LOOKUP_COSTS, max_gamma=MAX_FREE_GAMMA)

    def __iter__(self) -> Iterator[DraftNode]:
        return iter(self._nodes.values())

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __getitem__(self, name: str) -> DraftNode:
        return self._by_lookup if name == LOOKUP else self._nodes[name]

    def target_is_at(self, link: Link) -> None:
        """What is known by now of the way to the target."""
        self.way.link = link
        for node in (self._by_lookup, *self):
            node.target_rtt_s = link.rtt_s

    def add(self, node: DraftNode) -> None:
        node.target_rtt_s = self.way.link.rtt_s
        self._nodes[node.name] = node

    def model(self, model_hash: str) -> DraftModel:
        """What is known of a model; "": of one like no other."""
        if not model_hash:
            return DraftModel()
        if model_hash not in self._models and len(self._models) >= _MOST_MODELS:
            used = {id(node.model) for node in self}
            unused = (name for name, model in self._models.items() if id(model) not in used)
            # Hashes are what nodes say: no number of them may fill the memory.
            self._models.pop(next(unused, ""), None)
        return self._models.setdefault(model_hash, DraftModel())

    def remove(self, name: str) -> bool:
        return self._nodes.pop(name, None) is not None

    def views(self, now: float) -> tuple[tuple[DraftView, ...], Link]:
        """The nodes that hold streams, as policies see them, and the way to the target, each with
        what texts leave of its medium. Of a large pool a target's plans know its own nodes only."""
        shares: defaultdict[str, float] = defaultdict(float)
        for node in self:
            node.note_told(now)
            shares[node.link.medium or node.name] += node.pace.told.share(now)
        # No node is called "": there the target has its own.
        shares[self.way.link.medium] += self.way.told.share(now)
        held = (node for node in self if node.num_streams)
        views = [node.view(shares[node.link.medium or node.name]) for node in held]
        views += [self._by_lookup.view()] if self._by_lookup.num_streams else []
        return tuple(views), self.way.link.beside_texts(shares[self.way.link.medium])

    def choose(self, refused: Set[str], stream: Stream | None = None) -> DraftNode | None:
        """The node that would answer a typical round of one stream more soonest; what telling it
        the stream's text takes is spread over the rounds to come. Of those of one medium it is the
        one that should have more streams than it has."""

        def price_s(node: DraftNode) -> tuple[float, int]:
            told_s = 0.0
            if stream is not None:
                told_s = node.reading_s(len(stream.token_ids)) / _rounds_left(stream)
            return self._prices.round_s(node, num_more=1) + told_s, self._load.of(node.name)

        candidates: list[DraftNode] = []
        by_medium: defaultdict[str, list[DraftNode]] = defaultdict(list)
        nodes = self._with_room(refused)
        for node in [node for node in nodes if not node.is_silent] or nodes:
            medium = node.link.medium
            (by_medium[medium] if medium else candidates).append(node)
        candidates += map(self._prices.next_on_medium, by_medium.values())
        return min(candidates, key=price_s, default=None)

    def _with_room(self, refused: Set[str]) -> list[DraftNode]:
        nodes = (node for node in self if node.name not in refused)
        return [node for node in nodes if self._load.of(node.name) < node.max_streams]

    def taker_of(self, stream: Stream) -> DraftNode | None:
        """The node that would take in a stream that is under way; none that is silent: who has just
        come finds out whether it has come back."""
        node = self.chosen_for(stream)
        return None if node is None or node.is_silent else node

    def chosen_for(self, stream: Stream) -> DraftNode | None:
        """The node that suits a stream best; none if it makes no guesses."""
        if not stream.wants_draft:
            return None
        return self.choose(stream.refused_by, stream)

    def place(self, stream: Stream) -> list[Instruction]:
        """Open a stream on the node that suits it best; on none if it makes no guesses."""
        node = self.chosen_for(stream)
        return self.place_by_lookup(stream) if node is None else self._place_on(node, stream)

    def place_by_lookup(self, stream: Stream) -> list[Instruction]:
        """Let lookup guess for a stream, where there is lookup and it makes guesses."""
        stream_id = stream.spec.stream_id
        if stream.fixed_gamma != 0 and self.lookup is not None and self.lookup.holds(stream_id):
            self._by_lookup.num_streams += 1
            stream.draft = DraftPlacement(LOOKUP, 0, len(stream.token_ids), is_ready=True)
            stream.acceptance = self.lookup.acceptance(stream_id)
        return []

    def move(self, stream: Stream, target: CostTable, num_streams: int) -> list[Instruction]:
        """Serve a stream by lookup instead of its draft node, or the other way round, where that
        is better by far; target: what its passes cost. Whose number of guesses a client chose
        stays where it is."""
        lookup, placement = self.lookup, stream.draft
        if lookup is None or placement is None or stream.fixed_gamma is not None:
            return []
        if not lookup.holds(stream.spec.stream_id):
            return []
        by_lookup = lookup.acceptance(stream.spec.stream_id)
        is_by_lookup = placement.node == LOOKUP
        node = self.taker_of(stream) if is_by_lookup else self[placement.node]
        if node is None:
            return []
        lookup_s = token_s(target, self._by_lookup.view(), by_lookup, num_streams)
        by_node = stream.acceptance
        if is_by_lookup:
            plain_s = plain_token_s(target, num_streams)
            has_faded = len(stream.token_ids) - placement.known >= _FADED_TOKENS
            if has_faded and lookup_s > plain_s * (1.0 - MOVE_GAIN):
                # Nothing is gained here: it begins there as one that has just come.
                stream.known.pop(node.name, None)
            by_node = stream.known.get(node.name) or node.model.of_one()
        node_s = token_s(target, node.view(), by_node, num_streams)
        if placement.is_late:
            # It is not asked: the stream is decoded plainly.
            node_s = plain_token_s(target, num_streams)
        now_s, other_s = (lookup_s, node_s) if is_by_lookup else (node_s, lookup_s)
        if other_s >= now_s * (1.0 - MOVE_GAIN):
            return []
        told_s = node.reading_s(len(stream.token_ids)) if is_by_lookup else 0.0
        if told_s > (now_s - other_s) * stream.tokens_left:
            return []
        self.displace(stream)
        if is_by_lookup:
            return self._place_on(node, stream)
        if placement.is_late:
            stream.keep_off(node.name)
        self.place_by_lookup(stream)
        return [ToDraft(node.name, CloseStreamNotice(stream.spec.stream_id, placement.generation))]

    def rebalance(self, stream: Stream, num_moving: int) -> list[Instruction]:
        """Move a stream that is in no round off a crowded or slow node, where that pays.

        num_moving: streams whose draft nodes have yet to read them.
        """
        placement = stream.draft
        if placement is None or stream.is_by_lookup or num_moving >= MOST_MOVING:
            return []
        if placement.is_late:
            return self._leave_silent(stream, placement)
        if not stream.can_guess or placement.catching_up:
            return []
        num_tokens = len(stream.token_ids)
        if num_tokens < placement.settled_at:
            return []
        here, prices = self._nodes[placement.node], self._prices
        refused = stream.refused_by | {here.name}
        found = prices.better_beside(here, stream.refused_by)
        if found is None:
            rest = self._with_room(refused)
            found = prices.better_elsewhere(here, rest, num_tokens)
            found = found or prices.to_share_less(here, rest)
        if found is None:
            return []
        other, saved_s = found
        # Rounds of all who share the medium wait while the text is told.
        told_s = other.reading_s(num_tokens)
        told_s += prices.waiting_for(other) * other.message_s(1, num_tokens)
        if saved_s * _rounds_left(stream) <= told_s:
            return []
        return self._move_to(other, stream, placement)

    def _leave_silent(self, stream: Stream, placement: DraftPlacement) -> list[Instruction]:
        """Its node was late and has not answered since: it goes to another, if there is one."""
        other = self.choose(stream.refused_by | {placement.node}, stream)
        return [] if other is None else self._move_to(other, stream, placement)

    def _move_to(
        self, node: DraftNode, stream: Stream, placement: DraftPlacement
    ) -> list[Instruction]:
        self.displace(stream)
        notice = CloseStreamNotice(stream.spec.stream_id, placement.generation)
        moved = self._place_on(node, stream)
        self.settle(stream)
        return [ToDraft(placement.node, notice), *moved]

    def settle(self, stream: Stream) -> None:
        """It has gone to another node, and stays there for a while."""
        if stream.draft is not None:
            stream.draft.settled_at = len(stream.token_ids) + _SETTLED_TOKENS

    def _place_on(self, node: DraftNode, stream: Stream) -> list[Instruction]:
        node.num_streams += 1
        self._load.add(node.name, self._target)
        known = stream.known.pop(node.name, None)
        if known is not None:
            stream.acceptance = known
        elif stream.was_by_lookup or (self._gives_priors and stream.acceptance.is_untried):
            stream.acceptance = node.model.of_one()
        stream.acceptance = node.model.now_of(stream.acceptance)
        stream.was_by_lookup = False
        stream.draft_generation += 1
        num_told = min(len(stream.token_ids), node.piece_tokens)
        node.num_unread += num_told
        node.told_s += node.message_s(1, len(stream.token_ids))
        stream.draft = DraftPlacement(node.name, stream.draft_generation, num_told)
        spec = stream.current_spec(stream.draft_generation)
        if num_told < len(spec.token_ids):
            num_known = len(spec.token_ids)
            spec = replace(spec, token_ids=spec.token_ids[:num_told], num_known=num_known)
        return [ToDraft(node.name, open_request(spec))]

    def ended(self, stream: Stream) -> DraftPlacement | None:
        """Displace a stream that is over here: what is learnt of how alike streams are."""
        placement = stream.draft
        if placement is not None and placement.node in self._nodes:
            self._nodes[placement.node].model.population.ended(*stream.acceptance.judged)
        return self.displace(stream)

    def displace(self, stream: Stream) -> DraftPlacement | None:
        """Take a stream off its draft node, which may be gone already."""
        placement, stream.draft = stream.draft, None
        stream.drop_trial()
        if placement is None:
            return None
        if placement.node == LOOKUP:
            self._by_lookup.num_streams -= 1
            stream.was_by_lookup = True
        else:
            stream.known[placement.node] = stream.acceptance
            self._load.remove(placement.node, self._target)
            if placement.node in self._nodes:
                self._nodes[placement.node].num_streams -= 1
        return placement


def _rounds_left(stream: Stream) -> float:
    return max(1.0, stream.tokens_left / _TYPICAL_ROUND_TOKENS)
