"""One draft node: what its rounds really take, and the way to it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nodes.messages import MAX_PROMPT_TOKENS, MAX_STREAMS_PER_MESSAGE
from nodes.scheduler.drafting.draft_model import DraftModel
from nodes.scheduler.drafting.pace import Pace
from nodes.scheduler.drafting.punctuality import Punctuality
from nodes.stream import PROMPT_PIECE_TOKENS
from policies.acceptance import AcceptanceEstimate
from policies.latency import CostTable, NodeCosts
from policies.plan import ENTRY_BITS, HEADER_BITS, MAX_AUTO_GAMMA, DraftView, Link

_TYPICAL_GAMMA = 4
# A text goes to a draft node in pieces, or the messages of rounds would wait behind it.
_PIECE_S = 0.05
_LEAST_PIECE_TOKENS = 32
# A single text is soon read; only many at once are worth another plan.
_READING_HORIZON_S = 2.0
_MAX_READING_SHARE = 0.8


@dataclass(slots=True)
class DraftNode:
    """A draft node.

    num_waiting: rounds it is drafting. used_cells: of the streams it holds; own_cells: of one of
    them, on average. num_unread: tokens of texts it was given and has not read. told_s: seconds of
    its medium that texts take which it was given since that was last noted. target_rtt_s: the way
    to the target and back, for which rounds wait and leases do not. max_streams: it can hold, of
    all targets. is_silent: it was late and has said nothing since. pace: shared with the schedulers
    of other targets. model: with all nodes that run the same one.
    """

    name: str
    calibrated: NodeCosts
    link: Link = field(default_factory=Link)
    target_rtt_s: float = 0.0
    num_streams: int = 0
    num_waiting: int = 0
    used_cells: int = 0
    own_cells: float = 0.0
    num_unread: int = 0
    told_s: float = 0.0
    token_bits: int = 32
    max_gamma: int = MAX_AUTO_GAMMA
    max_streams: int = MAX_STREAMS_PER_MESSAGE
    is_silent: bool = False
    pace: Pace = field(default_factory=Pace)
    punctuality: Punctuality = field(default_factory=Punctuality)
    model: DraftModel = field(default_factory=DraftModel)

    @property
    def costs(self) -> NodeCosts:
        """Calibrated costs as corrected by the rounds seen."""
        return self.pace.speed.apply(self.calibrated)

    @property
    def rtt_s(self) -> float:
        """To it and back, as rounds have found it."""
        return max(0.0, self.link.rtt_s + self.pace.detour_s)

    def note_told(self, now: float) -> None:
        """Texts that it was given since the last time take their part of its medium."""
        if self.told_s:
            self.pace.told.add(self.told_s, now)
            self.told_s = 0.0

    def view(self, air_share: float = 0.0, *, is_reading: bool = True) -> DraftView:
        """As policies see it; air_share: part of its medium that texts take. is_reading: with what
        it has yet to read in its way."""
        costs = self.costs
        slow = 1.0 / (1.0 - self._reading_share(costs.prefill)) if is_reading else 1.0
        decode = costs.decode.with_own(self.own_cells)
        slowed = NodeCosts(decode.scaled(slow) if slow > 1.0 else decode, costs.prefill)
        left = self.link.beside_texts(air_share)
        whole = replace(left, rtt_s=self.rtt_s + self.target_rtt_s)
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

    def messages_s(self, gammas: Sequence[int], num_new_tokens: int) -> float:
        """Predicted seconds of the medium that a request and its answer take."""
        request_s = self.message_s(len(gammas), num_new_tokens)
        return request_s + self.message_s(len(gammas), sum(gammas))

    def link_s(self, gammas: Sequence[int], num_new_tokens: int) -> float:
        """Predicted seconds of a request and its answer on the way."""
        return self.rtt_s + self.messages_s(gammas, num_new_tokens)

    @property
    def piece_tokens(self) -> int:
        """Tokens of a text that one message tells this node: what its link carries in a moment."""
        room = min(self.link.rate_bps * _PIECE_S / self.token_bits, MAX_PROMPT_TOKENS)
        return max(_LEAST_PIECE_TOKENS, int(room))

    def typical_draft_s(self, num_streams: int) -> float:
        """Predicted seconds to guess for so many streams in a round."""
        return self.draft_s((_TYPICAL_GAMMA,) * num_streams, num_streams)

    def typical_drafts(self, own_cells: float) -> Callable[[int], float]:
        """The same of any number of streams, whose texts have so many tokens on average."""
        decode = self.costs.decode

        def drafts_s(num_streams: int) -> float:
            cells = round(num_streams * own_cells)
            return _TYPICAL_GAMMA * decode.at(num_streams, cells, own_cells)

        return drafts_s

    def typical_messages_s(self, num_streams: int) -> float:
        """Predicted seconds of the medium that messages of such a round take."""
        return self.messages_s((_TYPICAL_GAMMA,) * num_streams, num_streams)

    @property
    def acceptance(self) -> AcceptanceEstimate:
        return self.model.acceptance


def _reading_s(prefill: CostTable, num_tokens: int) -> float:
    # Tables of measured nodes begin with this size; others may with a single token.
    return num_tokens / PROMPT_PIECE_TOKENS * prefill.at(PROMPT_PIECE_TOKENS)
