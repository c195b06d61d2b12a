"""Says why passes take no guesses of a stream: a label, and a line with figures. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodes.messages import CommitEntry
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.stream import Stream
from nodes.telemetry.counts import Plain

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler

_LINES: Final[dict[Plain, str]] = {
    "asked": "the request sets gamma to 0",
    "last_token": "one token is left",
    "policy": "the coordinator's policy is plain decoding",
    "no_turn": "the draft model in the target's process promised less than its time costs",
    "measuring": "draft nodes pause, so that the speed without them is measured",
}
# What a sum of passes says of each label.
_SUMMED: Final[dict[Plain, str]] = {
    "asked": "as the request wants",
    "last_token": "for the last token",
    "policy": "by the coordinator's policy",
    "measuring": "to measure the speed without draft nodes",
    "no_draft": "without a draft node",
    "no_turn": "because a turn of the draft did not pay",
    "slower": "because draft nodes made it slower",
    "refused": "refused by draft nodes",
    "reading": "while a draft node read the text",
    "after_wrong": "right after a wrong guess",
    "none_there": "without a guess in time",
    "not_worth": "with guesses that were not worth it",
}
# Reasons whose line is about more than one pass.
_LASTING: Final = ("no_draft", "refused", "slower", "after_wrong", "none_there")


def plain_label(scheduler: Scheduler, stream: Stream, entry: CommitEntry) -> Plain:
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


def plain_line(scheduler: Scheduler, stream: Stream) -> str:
    """Returns why the last pass took no guesses of a stream, with figures; "" if it took some."""
    return _line(scheduler, stream, stream.plain) if stream.plain else ""


def _line(scheduler: Scheduler, stream: Stream, label: Plain) -> str:
    follow = stream.follow
    if label in _LINES:
        return _LINES[label]
    if label == "slower":
        comparison = stream.compared or scheduler.comparisons.of(len(scheduler.streams))
        line = (
            f"when it was last measured with {comparison.streams}, tokens came at "
            f"{comparison.decided_gain:.2f} of the speed without draft nodes"
        )
        # At the end of an answer they may be in use again.
        if scheduler.speculation is not Speculation.OFF:
            return line
        return f"{line}; they are tried again in {comparison.num_left:.0f} such passes"
    if label == "not_worth":
        line = f"the best guess had a chance of {stream.best_chance:.2f}, too little for its time"
        num, used = max(1, len(scheduler.streams)), scheduler.used_cells
        table = scheduler.target.decode.table
        now_ms, then_ms = (table.at(num + more, used, used / num) * 1e3 for more in (0, 1))
        more_ms = max(0.0, then_ms - now_ms)
        line = f"{line}: one more token adds {more_ms:.1f} ms to a pass of {now_ms:.1f} ms"
        return f"{line}, so it needs about {num * more_ms / now_ms:.2f} (streams in it: {num})"
    node = scheduler.drafts.get(follow.node) if follow is not None else None
    # Targets learn one after the other that a draft node is gone.
    if follow is None or node is None or label not in ("reading", "after_wrong", "none_there"):
        return stream.refusal if node is None or label != "no_draft" else ""
    if label == "reading":
        return f"draft node {node.name} is still reading the text"
    times_ms = node.costs.decode.at(1) * 1e3, scheduler.pass_s * 1e3
    takes = "a step takes {:.0f} ms by calibration, and a pass {:.0f} ms".format(*times_ms)
    if label == "after_wrong":
        way = f"({node.link.rtt_s * 1e3:.0f} ms there and back)"
        return f"draft node {node.name} is told first that its guess was wrong {way}; then {takes}"
    fates = f"{follow.num_late} guesses came late and {follow.num_taken} were taken"
    line = f"draft node {node.name} had no guess in time: since it follows this text, {fates}"
    return f"{line}; {takes}"


def summary(scheduler: Scheduler, stream: Stream) -> str:
    """Returns in a line how many passes took no guesses of a stream, and why; "" for none."""
    most = stream.figures.plain_steps.most_common()
    parts = ", ".join(f"{number} {_SUMMED[label]}" for label, number in most)
    lasting = [_line(scheduler, stream, label) for label, _ in most if label in _LASTING]
    lines = [f"passes without guesses: {parts}", *dict.fromkeys(filter(None, lasting))]
    return "; ".join(lines) if most else ""
