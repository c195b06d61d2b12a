"""Laps in which no prompt came or was through, and those in which one did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nodes.messages import CommitEntry
from nodes.scheduler.rounds import Round
from nodes.scheduler.watching.stage_errors import ErrorFigures, StageErrors
from nodes.stream import StreamId
from policies.plan import Observation, Plan


class LapRecorder:
    """A scheduler's Recorder of laps alone.

    num_changes: counts prompts that came and prompts that were through, so far. A lap from whose
    start to whose end it stays the same is a steady one.
    """

    def __init__(self, num_changes: Callable[[], int]) -> None:
        self._num_changes = num_changes
        self._begun: dict[int, int] = {}
        self._steady, self._changed = StageErrors(), StageErrors()

    def figures(self) -> tuple[ErrorFigures, ErrorFigures]:
        """Of steady laps, and of the others."""
        return self._steady.figures()["lap"], self._changed.figures()["lap"]

    def round_started(
        self, current: Round, batch: int, stops: Mapping[StreamId, float], now: float
    ) -> None:
        self._begun[current.round_id] = self._num_changes()

    def lap_done(self, current: Round, now: float) -> None:
        before = self._begun.pop(current.round_id, None)
        if before is not None:
            errors = self._steady if before == self._num_changes() else self._changed
            errors.observe("lap", now - current.started, current.predicted_s)

    def planned(self, observation: Observation, plan: Plan, now: float) -> None: ...

    def drafted(
        self,
        round_id: int,
        node: str,
        draft_s: float,
        predicted_s: float,
        rtt_s: float,
        now: float,
    ) -> None: ...

    def given_up(self, round_id: int, nodes: Sequence[str], now: float) -> None: ...

    def verify_sent(
        self, round_id: int, num_tokens: int, predicted_s: float, now: float
    ) -> None: ...

    def committed(
        self,
        pass_s: float,
        predicted_s: float,
        entries: Sequence[tuple[CommitEntry, int]],
        now: float,
    ) -> None: ...

    def trial_started(
        self, round_id: int, node: str, stream_ids: Sequence[int], now: float
    ) -> None: ...

    def trial_decided(
        self, stream_id: StreamId, num_draft_tokens: int, num_right: int, now: float
    ) -> None: ...
