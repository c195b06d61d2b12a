"""Figures of one target and its streams, for the status, metrics and traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nodes.scheduler.comparison import Speculation
from nodes.scheduler.stream import Opening, Stream
from nodes.telemetry.counts import Counts, Plain
from nodes.telemetry.stage_errors import ErrorFigures, Stage
from nodes.worker.stream import StreamId
from policies.latency import NodeCosts
from policies.plan import Plan

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler


def plain_label(stream: Stream, num_offered: int, speculation: Speculation) -> Plain:
    """Returns the reason why a pass took no guesses of a stream.

    num_offered: guesses of the stream that were present. speculation: the target's.
    """
    if stream.fixed_gamma == 0:
        return "asked"
    if stream.tokens_left <= 1:
        return "last_token"
    if speculation is Speculation.OFF:
        return "slower"
    if stream.follow is None:
        return "refused" if stream.backoff.at(len(stream.token_ids)) else "no_draft"
    if not stream.follow.is_ready:
        return "reading"
    return "not_worth" if num_offered else "none_there"


class Report:
    """Reads figures from a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    @property
    def counts(self) -> Counts:
        return self._scheduler.counts

    @property
    def plan(self) -> Plan:
        return self._scheduler.plan_in_force

    @property
    def prices_s(self) -> tuple[float, float]:
        """The last predicted prices of open flow and of the best groups; 0.0 if not known.

        A price is the weighted sum over streams of seconds a token.
        """
        made = self._scheduler.last_made
        return (made.open_s, made.grouped_s) if made is not None else (0.0, 0.0)

    @property
    def observed_price_s(self) -> float:
        """The price that was recently observed."""
        return self._scheduler.observed_price_s()

    def errors(self) -> Mapping[Stage, ErrorFigures]:
        return self._scheduler.stage_errors.figures()

    def gammas(self) -> Mapping[StreamId, int]:
        """Returns the number of guesses of each stream in its last pass."""
        return {s: each.last_pass.num_guesses for s, each in self._scheduler.state.streams.items()}

    def plain(self, stream: Stream) -> str:
        """Returns the label of the reason why the stream had no guesses in its last pass.

        "" where it had some, or has not been read yet.
        """
        if stream.last_pass.num_guesses or isinstance(stream.phase, Opening):
            return ""
        state = self._scheduler.state
        return plain_label(stream, stream.last_pass.num_offered, state.speculation)

    def why_plain(self, stream: Stream) -> str:
        """Returns the reason in one line, with the figures that decided it."""
        if stream.fixed_gamma == 0:
            return "draft off: the request sets gamma to 0"
        if stream.plain_reason or stream.follow is None:
            return stream.plain_reason
        last = stream.last_pass
        if not last.num_offered:
            return f"plain: no guess of {stream.follow.node} had arrived when the pass began"
        now_s, more_s = self._token_costs()
        if not now_s:
            return f"plain: the best guess had a chance of {last.best_chance:.2f}"
        return (
            f"plain: the best guess had a chance of {last.best_chance:.2f}, and one more token "
            f"adds {more_s * 1e3:.1f} ms to a pass of {now_s * 1e3:.1f} ms"
        )

    def _token_costs(self) -> tuple[float, float]:
        """Returns the seconds of a pass of all streams, and those that one more token adds; 0.0 if
        not known."""
        target, streams = self._scheduler.target, list(self._scheduler.streams())
        if target is None or not streams:
            return 0.0, 0.0
        used = sum(len(stream.token_ids) for stream in streams)
        now_s, then_s = (
            target.pass_s(len(streams) + more, used, used / len(streams)) for more in (0, 1)
        )
        return now_s, then_s - now_s

    def target_costs(self) -> NodeCosts | None:
        target = self._scheduler.target
        return target.now() if target is not None else None

    def draft_costs(self, name: str) -> NodeCosts | None:
        node = self._scheduler.state.drafts.get(name)
        return node.costs if node is not None else None
