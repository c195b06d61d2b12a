"""What a scheduler can say of its streams and its plan, to whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping

from nodes.scheduler.cycle import CycleState
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.journal import Journal
from nodes.scheduler.stream import Opening, Stream
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.watching.counts import Counts, plain_label
from nodes.scheduler.watching.stage_errors import ErrorFigures, Stage
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId
from policies.latency import NodeCosts
from policies.plan import Plan


class Report:
    """Shares streams, draft nodes and plan with the scheduler; changes nothing."""

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        drafts: DraftPool,
        cycle: CycleState,
        target: TargetCosts | None,
        watch: Watch,
    ) -> None:
        self._streams = streams
        self._drafts = drafts
        self._cycle = cycle
        self._target = target
        self._watch = watch

    @property
    def counts(self) -> Counts:
        return self._watch.counts

    @property
    def plan(self) -> Plan:
        return self._cycle.plan

    @property
    def cycle_s(self) -> float:
        """Predicted seconds of a cycle of the plan, 0.0 if not known."""
        return self._cycle.cycle_s

    def errors(self) -> Mapping[Stage, ErrorFigures]:
        """How far predicted times have been from observed ones."""
        return self._watch.errors.figures()

    def gammas(self) -> Mapping[StreamId, int]:
        """Caps on guesses of the streams that guess by the plan in force; a match of lookup may be
        worth more than its stream's."""
        return {s: gamma for batch in self._cycle.batches for s, gamma in batch.gammas.items()}

    def plain(self, stream: Journal, gamma: int) -> str:
        """Why a stream makes no guesses, as a label; "" if it does. gamma: its cap."""
        assert isinstance(stream, Stream)
        if isinstance(stream.phase, Opening) or (gamma and stream.can_guess):
            return ""
        return plain_label(stream)

    def why_plain(self, stream: Journal) -> str:
        """The same as a line."""
        assert isinstance(stream, Stream)
        return stream.plain_reason or self._cycle.why_plain(stream.spec.stream_id)

    def target_costs(self) -> NodeCosts | None:
        """As seen in its passes."""
        return self._target.now() if self._target is not None else None

    def draft_costs(self, name: str) -> NodeCosts | None:
        """A draft node's, as seen in its rounds."""
        if name not in self._drafts:
            return None
        # Not its `costs`, which move in steps each time that they are looked at.
        node = self._drafts[name]
        decode, prefill = node.calibrated.decode, node.calibrated.prefill
        return NodeCosts(
            decode.scaled(node.pace.speed.factor), prefill.scaled(node.pace.speed.factor)
        )
