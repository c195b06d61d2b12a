"""Says why passes take no guesses of a stream: a label, and a text with figures. Pure."""

from __future__ import annotations

from airdraft.nodes.messages import CommitEntry
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.state import SchedulerState
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.telemetry.counts import PLAIN_TEXTS, Plain


def plain_label(scheduler: SchedulerState, stream: Stream, entry: CommitEntry) -> Plain:
    """Returns the reason why a pass took no guesses of a stream. entry: what the pass committed."""
    if stream.fixed_gamma == 0:
        return "asked"
    if stream.tokens_left <= 1:
        return "last_token"
    if not scheduler.mode.has_guesses:
        return "policy"
    if stream.follow is None and stream.backoff.at(len(stream.token_ids)):
        return "refused"
    if scheduler.speculation is not Speculation.ON:
        return "slower" if scheduler.speculation is Speculation.OFF else "measuring"
    if stream.follow is None:
        return "no_turn" if scheduler.inside else "no_draft"
    if not stream.follow.is_ready:
        return "reading"
    # A guess of lookup does not count as offered, but has a chance, too.
    if entry.num_offered or entry.best_percent:
        return "not_worth"
    return "after_wrong" if stream.follow.has_diverged else "none_there"


def why_plain(scheduler: SchedulerState, stream: Stream, label: Plain) -> str:
    """Returns the text of a label, with those of its figures that are known of the stream now."""
    text, figures = PLAIN_TEXTS[label]
    known = _figures(scheduler, stream, label)
    return f"{text} ({figures.format(**known)})" if known else text


def summary(scheduler: SchedulerState, stream: Stream) -> str:
    """Returns in a line how many passes took no guesses of a stream, and why; "" for none."""
    steps = stream.figures.plain_steps.most_common()
    parts = (f"{num} as {why_plain(scheduler, stream, label)}" for label, num in steps)
    return f"passes without guesses: {'; '.join(parts)}" if steps else ""


def _figures(scheduler: SchedulerState, stream: Stream, label: Plain) -> dict[str, object]:
    follow = stream.follow
    node = scheduler.drafts.get(follow.node) if follow is not None else None
    match label:
        case "no_draft" | "refused" if follow is None and stream.refusal:
            return {"refusal": stream.refusal}
        case "slower":
            compared = stream.compared or scheduler.comparisons.of(len(scheduler.streams))
            return {"gain": compared.decided_gain}
        # The chance is that of the last pass.
        case "not_worth" if stream.plain == label:
            return {"chance": stream.best_chance, "needed": _needed_chance(scheduler)}
        # Targets learn one after the other that a draft node is gone.
        case "reading" | "after_wrong" | "none_there" if follow is not None and node is not None:
            return {
                "node": node.name,
                "rtt_ms": node.link.rtt_s * 1e3,
                "step_ms": node.costs.decode.at(1) * 1e3,
                "pass_ms": scheduler.pass_s * 1e3,
                "num_late": follow.num_late,
                "num_taken": follow.num_taken,
            }
    return {}


def _needed_chance(scheduler: SchedulerState) -> float:
    """Returns the chance with which one more token of a pass gains the time that it adds to it."""
    num, used = max(1, len(scheduler.streams)), scheduler.used_cells
    table = scheduler.target.decode.table
    now_s, then_s = (table.at(num + more, used, used / num) for more in (0, 1))
    return num * max(0.0, then_s / now_s - 1.0)
