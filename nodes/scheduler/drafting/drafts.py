"""The draft nodes of one target: who holds how much, what their rounds really take."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace

from nodes.messages import MAX_PROMPT_TOKENS, CloseStreamNotice
from nodes.scheduler.drafting.lookup import LOOKUP, LOOKUP_COSTS, Lookup
from nodes.scheduler.drafting.punctuality import Punctuality
from nodes.scheduler.instructions import Instruction, ToDraft, open_request
from nodes.scheduler.stream import DraftPlacement, Stream
from nodes.stream import PROMPT_PIECE_TOKENS
from policies.acceptance import AcceptanceEstimate
from policies.drafter import MOVE_GAIN, plain_token_s, token_s
from policies.latency import CostTable, NodeCosts, Speed
from policies.plan import (
    ENTRY_BITS,
    HEADER_BITS,
    MAX_AUTO_GAMMA,
    MAX_FREE_GAMMA,
    DraftView,
    Link,
)
from policies.population import Population

_TYPICAL_GAMMA = 4
# A node that was slow when it was last heard of may have cooled down or be alone again: without
# rounds what is known of its speed is worth half as much after each such time. Rounds of a slow
# node are some seconds apart.
_SPEED_HALF_LIFE_S, _SPEED_HOLDS_S = 60.0, 10.0
# And what is known of its way: Pings tell of that, too.
_DETOUR_HALF_LIFE_S, _DETOUR_HOLDS_S = 5.0, 1.0
# A way that took much longer, or no time at all, tells no more than this many times the predicted.
_DETOUR_RATE, _MOST_DETOUR = 0.1, 3.0
# A text goes to a draft node in pieces, or the messages of rounds would wait behind it.
_PIECE_S = 0.05
_LEAST_PIECE_TOKENS = 32
# A single text is soon read; only many at once are worth another plan.
_READING_HORIZON_S = 2.0
_MAX_READING_SHARE = 0.8
# A stream goes to another node for rounds that are shorter by this much; times are noisy.
_REBALANCE_GAIN = 0.2
_TYPICAL_ROUND_TOKENS = 2.5
# Streams on their way to another node at a time: each is decoded plainly until it has been read.
_MOST_MOVING = 2


@dataclass(slots=True)
class DraftNode:
    """A draft node.

    num_waiting: rounds it is drafting. used_cells: of the streams it holds; own_cells: of one of
    them, on average. num_unread: tokens of texts it was given and has not read. num_ready,
    num_wasted: tokens that it drafted ahead, and that were of use or not. target_rtt_s: the way to
    the target and back, for which rounds wait and leases do not.
    """

    name: str
    calibrated: NodeCosts
    link: Link = field(default_factory=Link)
    target_rtt_s: float = 0.0
    detour_s: float = 0.0
    num_streams: int = 0
    num_waiting: int = 0
    used_cells: int = 0
    own_cells: float = 0.0
    num_unread: int = 0
    num_ready: int = 0
    num_wasted: int = 0
    token_bits: int = 32
    max_gamma: int = MAX_AUTO_GAMMA
    speed: Speed = field(default_factory=Speed)
    seen_at: float = -math.inf
    _forgot_at: float = -math.inf
    punctuality: Punctuality = field(default_factory=Punctuality)
    acceptance: AcceptanceEstimate = field(default_factory=lambda: AcceptanceEstimate(memory=0.99))
    population: Population = field(default_factory=Population)

    @property
    def costs(self) -> NodeCosts:
        """Calibrated costs as corrected by the rounds seen."""
        return self.speed.apply(self.calibrated)

    def forget(self, now: float) -> None:
        """What was learnt of its speed and its way fades while it makes no guesses."""
        since_s = now - max(self.seen_at, self._forgot_at)
        if not _DETOUR_HOLDS_S < since_s < math.inf:
            return
        self.detour_s *= 0.5 ** (since_s / _DETOUR_HALF_LIFE_S)
        if now - self.seen_at > _SPEED_HOLDS_S:
            self.speed.forget(1.0 - 0.5 ** (since_s / _SPEED_HALF_LIFE_S))
        self._forgot_at = now

    @property
    def rtt_s(self) -> float:
        """To it and back, as rounds have found it."""
        return max(0.0, self.link.rtt_s + self.detour_s)

    def way_seen(self, seconds: float, predicted_s: float) -> None:
        """Learn from a round: all that it did not spend on guesses; predicted_s: by link_s."""
        beyond_s = min(seconds - predicted_s, _MOST_DETOUR * predicted_s)
        self.detour_s = max(-self.link.rtt_s, self.detour_s + _DETOUR_RATE * beyond_s)

    def view(self) -> DraftView:
        costs = self.costs
        slow = 1.0 / (1.0 - self._reading_share(costs.prefill))
        decode = costs.decode.with_own(self.own_cells)
        slowed = NodeCosts(decode.scaled(slow) if slow > 1.0 else decode, costs.prefill)
        whole = replace(self.link, rtt_s=self.rtt_s + self.target_rtt_s)
        return DraftView(self.name, slowed, whole, self.used_cells, self.max_gamma)

    def _reading_share(self, prefill: CostTable) -> float:
        """Part of the node's time that texts take in the next seconds."""
        seconds = _reading_s(prefill, self.num_unread)
        return min(_MAX_READING_SHARE, seconds / _READING_HORIZON_S)

    def reading_s(self, num_tokens: int) -> float:
        """Predicted seconds until a text more has been told and read, those before it included."""
        unread_s = _reading_s(self.costs.prefill, self.num_unread + num_tokens)
        return self.message_s(1, num_tokens) + unread_s

    def draft_s(self, gammas: Sequence[int], num_first_tokens: int) -> float:
        """Predicted seconds to guess for streams, if the node has nothing else to do.

        num_first_tokens: of the first step, which catches up with what was committed.
        """
        costs, cells = self.costs.decode, (self.used_cells, self.own_cells)
        seconds = costs.at(num_first_tokens, *cells)
        ordered = sorted(gammas)
        for step in range(1, ordered[-1]):
            num_going_on = len(ordered) - bisect.bisect_right(ordered, step)
            seconds += costs.at(num_going_on, *cells)
        return seconds

    def message_bits(self, num_streams: int, num_tokens: int) -> int:
        """Of a request or an answer, as they are counted beforehand."""
        return HEADER_BITS + ENTRY_BITS * num_streams + self.token_bits * num_tokens

    def message_s(self, num_streams: int, num_tokens: int) -> float:
        """Predicted seconds of the medium that one message takes."""
        return self.link.airtime_s(self.message_bits(num_streams, num_tokens), 1)

    def link_s(self, gammas: Sequence[int], num_new_tokens: int) -> float:
        """Predicted seconds of a request and its answer on the way."""
        request_s = self.message_s(len(gammas), num_new_tokens)
        return self.rtt_s + request_s + self.message_s(len(gammas), sum(gammas))

    @property
    def piece_tokens(self) -> int:
        """Tokens of a text that one message tells this node: what its link carries in a moment."""
        room = self.link.rate_bps * _PIECE_S / self.token_bits
        return MAX_PROMPT_TOKENS if math.isinf(room) else max(_LEAST_PIECE_TOKENS, int(room))

    def typical_round_s(self, num_streams: int) -> float:
        gammas = (_TYPICAL_GAMMA,) * num_streams
        return self.draft_s(gammas, num_streams) + self.link_s(gammas, num_streams)

    def prior(self) -> AcceptanceEstimate:
        """What to expect of a stream that nothing is known of yet."""
        return self.acceptance.prior(self.population.weight)


def _reading_s(prefill: CostTable, num_tokens: int) -> float:
    # Tables of measured nodes begin with this size; others may with a single token.
    return num_tokens / PROMPT_PIECE_TOKENS * prefill.at(PROMPT_PIECE_TOKENS)


class DraftPool:
    """All draft nodes that may draft for the target, and which streams they hold.

    gives_priors: a stream of which nothing is known begins with what its node knows of others.
    lookup: guesses from the streams' own texts; as a draft node it is always there.
    load: streams of all targets by draft node, which the pools of these targets share.
    """

    def __init__(
        self,
        *,
        gives_priors: bool = True,
        lookup: Lookup | None = None,
        load: Counter[str] | None = None,
    ) -> None:
        self._nodes: dict[str, DraftNode] = {}
        self._load = Counter[str]() if load is None else load
        self._gives_priors = gives_priors
        self.lookup = lookup
        self._by_lookup = DraftNode(LOOKUP, LOOKUP_COSTS, max_gamma=MAX_FREE_GAMMA)

    def __iter__(self) -> Iterator[DraftNode]:
        return iter(self._nodes.values())

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __getitem__(self, name: str) -> DraftNode:
        return self._by_lookup if name == LOOKUP else self._nodes[name]

    def target_is_at(self, rtt_s: float) -> None:
        """What is known by now of the way to the target and back."""
        for node in (self._by_lookup, *self):
            node.target_rtt_s = rtt_s

    def add(self, node: DraftNode) -> None:
        node.target_rtt_s = self._by_lookup.target_rtt_s
        self._nodes[node.name] = node

    def remove(self, name: str) -> bool:
        return self._nodes.pop(name, None) is not None

    def views(self) -> tuple[DraftView, ...]:
        nodes = list(self._nodes.values())
        if self._by_lookup.num_streams:
            nodes.append(self._by_lookup)
        return tuple(node.view() for node in nodes)

    def choose(self, refused: Set[str]) -> DraftNode | None:
        """The node that would answer a typical round of one stream more soonest."""
        candidates = [node for node in self._nodes.values() if node.name not in refused]
        return min(
            candidates,
            key=lambda n: (n.typical_round_s(self._load[n.name] + 1), self._load[n.name]),
            default=None,
        )

    def _choose_for(self, stream: Stream) -> DraftNode | None:
        return None if stream.is_off_drafts else self.choose(stream.refused_by)

    def place(self, stream: Stream) -> list[Instruction]:
        """Open a stream on the node that suits it best; on none if it makes no guesses."""
        node = None if stream.fixed_gamma == 0 else self._choose_for(stream)
        if node is None:
            return self._place_by_lookup(stream)
        return self._place_on(node, stream)

    def _place_by_lookup(self, stream: Stream) -> list[Instruction]:
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
        node = self._choose_for(stream) if is_by_lookup else self[placement.node]
        if node is None:
            return []
        by_node = stream.acceptance
        if is_by_lookup:
            by_node = stream.known.get(node.name) or node.prior()
        lookup_s = token_s(target, self._by_lookup.view(), by_lookup, num_streams)
        node_s = token_s(target, node.view(), by_node, num_streams)
        if placement.is_late:
            # It is not asked: the stream is decoded plainly.
            node_s = plain_token_s(target, num_streams)
        now_s, other_s = (lookup_s, node_s) if is_by_lookup else (node_s, lookup_s)
        if other_s >= now_s * (1.0 - MOVE_GAIN):
            return []
        self.displace(stream)
        if is_by_lookup:
            return self._place_on(node, stream)
        if placement.is_late:
            stream.refused_by.add(node.name)
        self._place_by_lookup(stream)
        return [ToDraft(node.name, CloseStreamNotice(stream.spec.stream_id, placement.generation))]

    def rebalance(self, stream: Stream, num_moving: int) -> list[Instruction]:
        """Move a stream that is in no round off a crowded or slow node, where that pays.

        num_moving: streams whose draft nodes have yet to read them.
        """
        placement = stream.draft
        if placement is None or stream.is_by_lookup or num_moving >= _MOST_MOVING:
            return []
        if not stream.can_guess or placement.catching_up:
            return []
        here = self._nodes[placement.node]
        other = self.choose(stream.refused_by | {here.name})
        if other is None:
            return []
        # Its own text is as long on either node.
        own = float(len(stream.token_ids))
        here_s = replace(here, own_cells=own).typical_round_s(self._load[here.name])
        there = replace(other, own_cells=own, used_cells=other.used_cells + len(stream.token_ids))
        there_s = there.typical_round_s(self._load[other.name] + 1)
        gain_s = (here_s - there_s) * stream.tokens_left / _TYPICAL_ROUND_TOKENS
        if there_s > here_s * (1.0 - _REBALANCE_GAIN):
            return []
        if gain_s <= other.reading_s(len(stream.token_ids)):
            return []
        self.displace(stream)
        notice = CloseStreamNotice(stream.spec.stream_id, placement.generation)
        return [ToDraft(here.name, notice), *self._place_on(other, stream)]

    def _place_on(self, node: DraftNode, stream: Stream) -> list[Instruction]:
        node.num_streams += 1
        self._load[node.name] += 1
        known = stream.known.pop(node.name, None)
        if known is not None:
            stream.acceptance = known
        elif stream.was_by_lookup or (self._gives_priors and stream.acceptance.is_untried):
            stream.acceptance = node.prior()
        stream.was_by_lookup = False
        stream.draft_generation += 1
        num_told = min(len(stream.token_ids), node.piece_tokens)
        stream.draft = DraftPlacement(node.name, stream.draft_generation, num_told)
        spec = stream.current_spec(stream.draft_generation)
        spec = replace(spec, token_ids=spec.token_ids[:num_told])
        return [ToDraft(node.name, open_request(spec))]

    def ended(self, stream: Stream) -> DraftPlacement | None:
        """Displace a stream that is over here: what its node learns of how alike streams are."""
        placement = stream.draft
        if placement is not None and placement.node in self._nodes:
            self._nodes[placement.node].population.ended(*stream.acceptance.judged)
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
            self._load[placement.node] -= 1
            if not self._load[placement.node]:
                # Names of nodes come and go.
                del self._load[placement.node]
            if placement.node in self._nodes:
                self._nodes[placement.node].num_streams -= 1
        return placement
