"""What is shown of the streams of one target where guesses flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nodes.flow.stream import Stream
from nodes.scheduler.journal import Journal
from nodes.scheduler.stream import Opening
from nodes.scheduler.watching.counts import Counts, Plain
from nodes.scheduler.watching.stage_errors import ErrorFigures, Stage
from nodes.stream import StreamId
from policies.latency import NodeCosts
from policies.plan import Plan

if TYPE_CHECKING:
    from nodes.flow.scheduler import FlowScheduler


def plain_label(stream: Stream) -> Plain:
    """Why a pass took no guesses of a stream."""
    if stream.fixed_gamma == 0:
        return "asked"
    if stream.tokens_left <= 1:
        return "last_token"
    if stream.follow is None:
        return "refused" if stream.refusals.at(len(stream.token_ids)) else "no_draft"
    return "not_worth" if stream.follow.is_ready else "reading"


class Report:
    """What is shown of streams."""

    def __init__(self, scheduler: FlowScheduler) -> None:
        self._scheduler = scheduler

    @property
    def counts(self) -> Counts:
        return self._scheduler.counts

    @property
    def plan(self) -> Plan:
        return self._scheduler.plan_in_force

    @property
    def cycle_s(self) -> float:
        return 0.0

    def errors(self) -> Mapping[Stage, ErrorFigures]:
        return self._scheduler.stage_errors.figures()

    def gammas(self) -> Mapping[StreamId, int]:
        """Guesses that streams had in their last pass."""
        return {s: stream.last_gamma for s, stream in self._scheduler.state.streams.items()}

    def plain(self, stream: Journal, gamma: int) -> str:
        assert isinstance(stream, Stream)
        return "" if gamma or isinstance(stream.phase, Opening) else plain_label(stream)

    def why_plain(self, stream: Journal) -> str:
        assert isinstance(stream, Stream)
        return stream.plain_reason

    def target_costs(self) -> NodeCosts | None:
        target = self._scheduler.target
        return target.now() if target is not None else None

    def draft_costs(self, name: str) -> NodeCosts | None:
        node = self._scheduler.state.drafts.get(name)
        return node.costs if node is not None else None
