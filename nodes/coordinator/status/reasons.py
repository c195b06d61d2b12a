"""Says why a stream is decoded without guesses, as a label and as a line with figures. Pure."""

from __future__ import annotations

from nodes.scheduler import Scheduler
from nodes.scheduler.commits import plain_label
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.stream import Opening, Stream


def plain(scheduler: Scheduler, stream: Stream) -> str:
    """Returns the label of the reason why the stream had no guesses in its last pass.

    "" where it had some, or has not been read yet.
    """
    if stream.last_pass.num_guesses or isinstance(stream.phase, Opening):
        return ""
    return plain_label(scheduler, stream, stream.last_pass.num_offered)


def why_plain(scheduler: Scheduler, stream: Stream) -> str:
    """Returns the reason in one line, with the figures that decided it."""
    if stream.fixed_gamma == 0:
        return "draft off: the request sets gamma to 0"
    if scheduler.speculation is Speculation.OFF:
        comparison = scheduler.comparisons.of(len(scheduler.streams))
        return (
            f"draft off: with guesses tokens came at {comparison.gain:.2f} of the speed without; "
            f"they are tried again in {comparison.num_left:.0f} passes"
        )
    if stream.plain_reason or stream.follow is None:
        return stream.plain_reason
    last = stream.last_pass
    if not last.num_offered:
        return (
            f"plain: no guess of {stream.follow.node} was there when the pass began; its guesses "
            f"are right with a chance of {stream.acceptance.alpha:.2f}"
        )
    num, used = len(scheduler.streams), scheduler.used_cells
    decode = scheduler.target.decode.table
    now_s, then_s = (decode.at(num + n, used, used / num) for n in (0, 1))
    return (
        f"plain: the best guess had a chance of {last.best_chance:.2f}, and one more token adds "
        f"{(then_s - now_s) * 1e3:.1f} ms to a pass of {now_s * 1e3:.1f} ms"
    )
