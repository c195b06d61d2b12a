"""Predicted against observed times of what was recorded, as the scheduler reckons them itself."""

from __future__ import annotations

from collections.abc import Iterable

from nodes.scheduler.watching.stage_errors import STAGES, StageErrors
from nodes.trace.records import DraftRecord, LapRecord, PassRecord, Record, RoundRecord


def errors_of(records: Iterable[Record]) -> StageErrors:
    """Errors of each stage; of a round that began before the recording, not of its link."""
    errors = StageErrors()
    begun: dict[tuple[str, int], RoundRecord] = {}
    for record in records:
        match record:
            case RoundRecord(target=target, round_id=round_id):
                begun[target, round_id] = record
            case DraftRecord(target=target, round_id=round_id, draft_s=draft_s) if draft_s > 0.0:
                errors.observe("draft", draft_s, record.predicted_s)
                start = begun.get((target, round_id))
                for part in start.nodes if start is not None else ():
                    if start is not None and part.node == record.node:
                        way_s = record.at_s - start.at_s - draft_s
                        errors.observe("link", way_s, part.link_s)
            case PassRecord():
                errors.observe("pass", record.pass_s, record.predicted_s)
            case LapRecord():
                errors.observe("lap", record.lap_s, record.predicted_s)
    return errors


def errors_text(errors: StageErrors) -> str:
    """A row a stage of which anything was seen; "" if there is none."""
    figures = errors.figures()
    rows = [
        f"{stage:<6}{figures[stage].num_seen:>8}{figures[stage].median:>10.1%}"
        f"{figures[stage].p95:>10.1%}"
        for stage in STAGES
        if figures[stage].num_seen
    ]
    head = f"{'stage':<6}{'number':>8}{'median':>10}{'p95':>10}  errors of predicted times"
    return "\n".join([head, *rows]) if rows else ""
