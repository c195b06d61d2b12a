"""What streams get from a target, and would get from it: predicted seconds a token."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodes.scheduler.cycle import CycleState
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.journal import Journal
from nodes.scheduler.observe import observe, used_cells
from nodes.scheduler.stream import Stream, as_round_stream
from nodes.scheduler.target import TargetCosts
from nodes.stream import StreamId
from policies.plan import Observation, Plan, StreamView
from policies.priced import price_of

# A plan takes a millisecond or two: what guesses gain is looked up again when this much is new.
_GAIN_AGE_S = 1.0
_GAIN_CROWD = 1.5
# The price of a plan is the sum of weight times seconds a token: its slope is those seconds.
_NUDGE = 1e-3


@dataclass(frozen=True, slots=True)
class _Gain:
    """Seconds a token over those of a plain pass, as planned for so many streams."""

    ratio: float
    num_streams: int
    at: float

    def holds(self, num_streams: int, now: float) -> bool:
        low, high = sorted((num_streams, self.num_streams))
        return now - self.at < _GAIN_AGE_S and high <= low * _GAIN_CROWD


@dataclass(frozen=True, slots=True)
class Forecast:
    """Looks ahead on one target, whose scheduler it shares everything with; changes none of it.

    Every stream is taken as read already. 0 seconds where costs are not known.
    """

    streams: Mapping[StreamId, Stream]
    drafts: DraftPool
    cycle: CycleState
    target: TargetCosts | None
    token_bits: int
    _gains: dict[int | None, _Gain] = field(default_factory=dict)

    def token_s(self, stream_ids: Collection[int], now: float) -> float:
        """Seconds a token of some of the target's streams, on average."""
        return self._token_s(self._observation(now), stream_ids)

    def token_s_of_newcomers(self, newcomers: Sequence[Journal], now: float) -> float:
        """Seconds a token of streams that are elsewhere, on average, if they were served here.

        Each is taken as guessed for by the draft node that would be chosen for it now.
        """
        seen = self._observation(now)
        node = self.drafts.choose(set())
        num_tokens = sum(len(stream.token_ids) for stream in newcomers)
        is_new = node is not None and all(view.name != node.name for view in seen.drafts)
        seen = replace(
            seen,
            drafts=(*seen.drafts, node.view()) if node is not None and is_new else seen.drafts,
            streams=(
                *seen.streams,
                *(self._view(as_round_stream(each), node) for each in newcomers),
            ),
            used_cells=seen.used_cells + num_tokens,
        )
        return self._token_s(seen, [stream.spec.stream_id for stream in newcomers])

    def token_s_of_newcomer(self, stream: Journal, now: float) -> float:
        """About the same for one stream, in microseconds: many may come at once."""
        pass_s = self.plain_s([stream], now)
        if pass_s == 0.0:
            return 0.0
        num_streams = len(self.streams) + 1
        gain = self._gains.get(stream.fixed_gamma)
        if gain is None or not gain.holds(num_streams, now):
            ratio = self.token_s_of_newcomers([stream], now) / pass_s
            gain = self._gains[stream.fixed_gamma] = _Gain(ratio, num_streams, now)
        return gain.ratio * pass_s

    def plain_s(self, newcomers: Sequence[Journal], now: float) -> float:
        """Seconds of a plain pass of the target's streams and of those: little work, no plan."""
        num_streams = len(self.streams) + len(newcomers)
        if self.target is None or not num_streams:
            return 0.0
        cells = used_cells(self.streams.values()) + sum(len(s.token_ids) for s in newcomers)
        return self.target.expected_s(num_streams, cells, cells / num_streams, now)

    def reading_s(self, num_tokens: int) -> float:
        """Seconds until the target has been told a text and has read it."""
        if self.target is None:
            return 0.0
        told_s = self.drafts.way.text_s(num_tokens)
        return told_s + self.target.reading_s(num_tokens, len(self.streams))

    def _observation(self, now: float) -> Observation:
        seen = observe(self.streams.values(), self.drafts, self.target, now, is_ahead=True)
        return replace(
            seen,
            slowness=self.cycle.slowness,
            ahead_overrun=self.cycle.ahead_overrun(now),
            token_bits=self.token_bits,
        )

    def _view(self, stream: Stream, node: DraftNode | None) -> StreamView:
        view = stream.view()
        if node is None or stream.fixed_gamma == 0:
            return replace(view, draft=None)
        known = stream.known.get(node.name) or stream.acceptance
        known = node.model.of_one() if known.is_untried else node.model.now_of(known)
        return replace(
            view,
            draft=node.name,
            alpha=known.alpha,
            alphas=known.alphas,
            kept=known.kept,
            starts=known.starts,
        )

    def _token_s(self, seen: Observation, stream_ids: Collection[int]) -> float:
        if seen.target is None:
            return 0.0
        plan = self.cycle.policy(seen)
        if plan.prediction is None:
            pass_s = seen.target.decode.at(len(seen.streams), seen.used_cells)
            return pass_s / (1.0 - seen.prefill_share)
        return _slope_s(seen, plan, stream_ids)


def _slope_s(seen: Observation, plan: Plan, stream_ids: Collection[int]) -> float:
    nudged = tuple(
        replace(view, weight=view.weight + _NUDGE) if view.stream_id in stream_ids else view
        for view in seen.streams
    )
    more_s = price_of(replace(seen, streams=nudged), plan) - price_of(seen, plan)
    return more_s / (_NUDGE * len(stream_ids))
