"""Schedulers of either kind, while some targets still get their guesses in rounds."""

from __future__ import annotations

from typing import TypeAlias

from nodes.flow.report import Report as FlowReport
from nodes.flow.scheduler import FlowScheduler
from nodes.scheduler import SchedulerState
from nodes.scheduler.watching.report import Report as RoundReport

AnyScheduler: TypeAlias = SchedulerState | FlowScheduler
AnyReport: TypeAlias = RoundReport | FlowReport
