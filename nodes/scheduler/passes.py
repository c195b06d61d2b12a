"""What is learnt from the passes of a target: costs, whether guesses pay, its speed. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Final

from nodes.messages import CommitEntry, CommitReply
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.following import switch_guesses
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.stream import Stream
from nodes.worker.stream import PROMPT_PIECE_TOKENS
from policies.latency import MAX_RATIO, PASS_RATE, Load, NodeCosts, TableRefit
from policies.plan import ENTRY_BITS, HEADER_BITS, TEXT_BITS

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler

# The share of prompts is capped, because decoding goes on beside any number of them.
_MAX_PREFILL_SHARE: Final = 0.8
# So long a target's observed speed counts without a further pass.
_SEEN_FOR_S: Final = 60.0


class TargetCosts:
    """Costs of one target, and the share of its time spent on prompts.

    calibrated: seconds of a pass by its tokens, of prompts as well, as the target declared them;
    decode: the same, refitted from passes that read no prompts.
    """

    def __init__(self, calibrated: NodeCosts) -> None:
        self.calibrated = calibrated.decode
        self._prefill = calibrated.prefill
        self._prompts = Load()
        self.forget()

    def forget(self) -> None:
        """Forget what passes have taken since the calibration."""
        self.decode = TableRefit(self.calibrated)

    def now(self, own_cells: float = 0.0) -> NodeCosts:
        """Returns the present costs for streams that have own_cells cells each."""
        return NodeCosts(self.decode.table.with_own(own_cells), self._prefill)

    def prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def read_beside(self, num_tokens: int, num_decoded: int, own_cells: float, now: float) -> None:
        """Record that a pass of num_decoded tokens also read num_tokens tokens of prompts."""
        decode = self.decode.table.with_own(own_cells)
        piece_s = decode.at(num_decoded + num_tokens) - decode.at(num_decoded)
        self._prompts.add(max(0.0, piece_s), now)

    def reading_s(self, num_tokens: int, num_others: int) -> float:
        """Returns the seconds that reading a text takes beside num_others decoding streams."""
        if num_others == 0:
            size = self._prefill.sizes[-1]
            return num_tokens / size * self._prefill.at(size)
        decode = self.decode.table.with_own(num_tokens / 2)
        return num_tokens / PROMPT_PIECE_TOKENS * decode.at(num_others + PROMPT_PIECE_TOKENS)

    def expected_s(self, num_tokens: int, used_cells: int, own_cells: float, now: float) -> float:
        """Returns the mean seconds of a pass that decodes num_tokens, prompt pieces included."""
        seconds = self.decode.table.at(num_tokens, used_cells, own_cells)
        return seconds / (1.0 - self.prefill_share(now))


class ObservedSpeed:
    """How long passes of a target take by the coordinator's own clock, to the predicted times.

    Targets are compared by this, because whatever they report of themselves may be wrong.
    num_passes: those that were observed. ratio: the mean of observed / predicted times.
    """

    def __init__(self) -> None:
        self.num_passes = 0
        self.ratio = 1.0
        self._last: tuple[float, frozenset[int]] = (0.0, frozenset())

    def is_old(self, now: float) -> bool:
        """Whether the target has had no pass for a minute."""
        return now - self._last[0] > _SEEN_FOR_S

    def passed(self, reply: CommitReply, predicted_s: float, now: float) -> None:
        """Note a pass. Its time is known where a stream decoded in the one before as well."""
        at, before = self._last
        self._last = now, frozenset(entry.stream_id for entry in reply.entries)
        if predicted_s <= 0.0 or reply.num_read_tokens or before.isdisjoint(self._last[1]):
            return
        self.num_passes += 1
        rate = max(PASS_RATE, 1.0 / self.num_passes)
        # A stall of the coordinator or of the link says nothing of the target.
        most = MAX_RATIO * self.ratio if rate == PASS_RATE else math.inf
        found = (now - at) / (predicted_s + reply.turn_s)
        self.ratio += rate * (min(most, found) - self.ratio)


def forget_old(scheduler: Scheduler, now: float) -> None:
    """Forget the speed of a target that has had no pass for a minute.

    It may have been slow for a moment, and while it counts as slow others get all requests by which
    that would be seen. By its calibration alone it counts as a new one.
    """
    if scheduler.observed.is_old(now):
        scheduler.observed = ObservedSpeed()
        scheduler.target.forget()


def learn(scheduler: Scheduler, reply: CommitReply, now: float) -> float:
    """Count a pass, and learn from the difference between its time and the prediction.

    Returns the predicted seconds, 0.0 where nothing was predicted.
    """
    if reply.pass_s <= 0.0:
        # It reports streams that ended without a pass.
        return 0.0
    num_decoded, own = pass_size(reply.entries)
    num_tokens = num_decoded + reply.num_read_tokens
    num_guesses = sum(entry.num_draft_tokens for entry in reply.entries)
    pass_s, target = reply.pass_s, scheduler.target
    scheduler.counts.pass_done(scheduler.name, pass_s, num_tokens, num_guesses, now)
    predicted_s = 0.0
    if reply.num_read_tokens <= PROMPT_PIECE_TOKENS:
        used = scheduler.used_cells
        predicted_s = target.decode.table.at(num_tokens, used, own)
        scheduler.counts.ratios["pass"].observe(pass_s, predicted_s)
        if reply.num_read_tokens:
            target.read_beside(reply.num_read_tokens, num_decoded, own, now)
        else:
            steady_s = min(pass_s, MAX_RATIO * predicted_s) + reply.turn_s
            scheduler.pass_s += PASS_RATE * (steady_s - scheduler.pass_s)
            target.decode.observe(num_tokens, pass_s, used, own)
            _compare(scheduler, reply, steady_s, used)
    scheduler.observed.passed(reply, predicted_s, now)
    return predicted_s


def _compare(scheduler: Scheduler, reply: CommitReply, pass_s: float, used: int) -> None:
    """Add a pass to the comparison of decoding with and without draft nodes.

    pass_s: its seconds, limited where it stalled: an hour would outweigh all other passes of a day.
    """
    num, streams = len(reply.entries), scheduler.streams.values()
    if not scheduler.mode.compares or not num:
        return
    follows = [stream.follow for stream in streams if stream.follow is not None]
    is_idle = scheduler.speculation is Speculation.ON and not follows
    if is_idle or any(stream.fixed_gamma for stream in streams):
        return
    tokens = sum(entry.num_tokens for entry in reply.entries) / num
    num_passes = pass_s / scheduler.target.calibrated.at(num, used, used / num)
    # A draft node that is still reading a text would continue to read during a pause.
    may_pause = all(follow.is_ready for follow in follows) and not scheduler.waits
    scheduler.comparisons.of(len(streams)).passed(tokens, num_passes, may_pause=may_pause)


def speculate(scheduler: Scheduler) -> list[Instruction]:
    """Switch draft nodes on or off by the comparison of the present number of streams.

    They stay on if a client has fixed its number of guesses or no draft node is usable.
    """
    streams = scheduler.streams.values()
    if not scheduler.mode.compares or not streams:
        return []
    wanted = scheduler.comparisons.of(len(streams)).speculation
    if any(stream.fixed_gamma for stream in streams) or not scheduler.usable:
        wanted = Speculation.ON
    return [] if wanted is scheduler.speculation else switch_guesses(scheduler, wanted)


def take_air(scheduler: Scheduler, now: float) -> None:
    """Reserve the share of its medium that the target's answers need, if it shares one."""
    num, link = len(scheduler.streams), scheduler.link
    if not link.medium:
        return
    part = 0.0
    if num:
        num_bits = HEADER_BITS + num * (ENTRY_BITS + scheduler.token_bits + TEXT_BITS)
        part = link.airtime_s(num_bits, 1) / plain_s(scheduler, (), now)
    scheduler.drafts.take(scheduler.name, link.medium, part)


def pass_size(entries: Iterable[CommitEntry]) -> tuple[int, float]:
    """Returns the tokens of a pass, and the mean cells of its own stream that each attends to."""
    num_tokens, attended = 0, 0
    for entry in entries:
        num_tokens += entry.num_draft_tokens + 1
        attended += (entry.num_draft_tokens + 1) * entry.prefix_len
    return num_tokens, attended / max(1, num_tokens)


def plain_s(scheduler: Scheduler, newcomers: Sequence[Stream], now: float) -> float:
    """Returns the seconds of a plain pass of the target's streams and the newcomers."""
    num_streams = len(scheduler.streams) + len(newcomers)
    if not num_streams:
        return 0.0
    cells = scheduler.used_cells + sum(len(stream.token_ids) for stream in newcomers)
    return scheduler.target.expected_s(num_streams, cells, cells / num_streams, now)


def token_s(
    scheduler: Scheduler, streams: Iterable[Stream], newcomers: Sequence[Stream], now: float
) -> float:
    """Returns the average seconds a token of some of the target's streams.

    newcomers: streams of other targets that would be served here as well. They are taken to be as
    easy to guess as these.
    """
    tokens = [stream.tokens_a_pass for stream in streams]
    pass_s = scheduler.observed.ratio * plain_s(scheduler, newcomers, now)
    return pass_s / (fmean(tokens) if tokens else 1.0)


def reading_s(scheduler: Scheduler, num_tokens: int) -> float:
    """Returns the seconds until a text has been sent to the target and read."""
    bits = HEADER_BITS + ENTRY_BITS + num_tokens * scheduler.token_bits
    sending_s = scheduler.link.airtime_s(bits, 1)
    read_s = scheduler.target.reading_s(num_tokens, len(scheduler.streams))
    return sending_s + scheduler.observed.ratio * read_s
