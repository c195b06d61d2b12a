"""Learns from the passes of a target, and predicts the time of passes and texts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from airdraft.nodes.messages import CommitEntry, CommitReply
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.following import switch_guesses
from airdraft.nodes.scheduler.instructions import Instruction
from airdraft.nodes.scheduler.state import ObservedSpeed, SchedulerState
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS
from airdraft.policies.latency import MAX_RATIO
from airdraft.policies.plan import ENTRY_BITS, HEADER_BITS, TEXT_BITS


def forget_old(state: SchedulerState, now: float) -> None:
    """Forget the speed of a target that has had no pass for a minute.

    It may have been slow for a moment, and while it counts as slow others get all requests by which
    that would be seen. By its calibration alone it counts as a new one.
    """
    if state.observed.is_old(now):
        state.observed = ObservedSpeed()
        state.target.forget()


def learn(state: SchedulerState, reply: CommitReply, now: float) -> float:
    """Count a pass, and learn from the difference between its time and the prediction.

    Returns the predicted seconds, 0.0 where nothing was predicted.
    """
    if reply.pass_s <= 0.0:
        # It reports streams that ended without a pass.
        return 0.0
    num_decoded, own = pass_size(reply.entries)
    num_tokens = num_decoded + reply.num_read_tokens
    num_guesses = sum(entry.num_draft_tokens for entry in reply.entries)
    pass_s, target = reply.pass_s, state.target
    state.counts.pass_done(state.name, pass_s, num_tokens, num_guesses, now)
    predicted_s = 0.0
    if reply.num_read_tokens <= PROMPT_PIECE_TOKENS:
        used = state.used_cells
        predicted_s = target.decode.table.at(num_tokens, used, own)
        state.counts.ratios["pass"].observe(pass_s, predicted_s)
        if reply.num_read_tokens:
            target.read_beside(reply.num_read_tokens, num_decoded, own, now)
        else:
            steady_s = min(pass_s, MAX_RATIO * predicted_s) + reply.turn_s
            state.pass_s = predicted_s + reply.turn_s
            target.decode.observe(num_tokens, pass_s, used, own)
            _compare(state, reply, steady_s, used)
    state.observed.passed(reply, predicted_s, now)
    return predicted_s


def _compare(state: SchedulerState, reply: CommitReply, pass_s: float, used: int) -> None:
    """Add a pass to the comparison of decoding with and without draft nodes.

    pass_s: its seconds, limited where it stalled: an hour would outweigh all other passes of a day.
    """
    num, streams = len(reply.entries), state.streams.values()
    if not state.mode.compares or not num:
        return
    follows = [stream.follow for stream in streams if stream.follow is not None]
    is_idle = state.speculation is Speculation.ON and not follows
    if is_idle or any(stream.fixed_gamma for stream in streams):
        return
    tokens = sum(entry.num_tokens for entry in reply.entries) / num
    num_passes = pass_s / state.target.calibrated.at(num, used, used / num)
    # A draft node that is still reading a text would continue to read during a pause.
    may_pause = all(follow.is_ready for follow in follows) and not state.holds
    state.comparisons.of(len(streams)).passed(tokens, num_passes, may_pause=may_pause)


def speculate(state: SchedulerState) -> list[Instruction]:
    """Switch draft nodes on or off by the comparison of the present number of streams.

    They stay on if a client has fixed its number of guesses or no draft node is usable.
    """
    streams = state.streams.values()
    if not state.mode.compares or not streams:
        return []
    wanted = state.comparisons.of(len(streams)).speculation
    if any(stream.fixed_gamma for stream in streams) or not state.usable:
        wanted = Speculation.ON
    return [] if wanted is state.speculation else switch_guesses(state, wanted)


def take_air(state: SchedulerState, now: float) -> None:
    """Reserve the share of its medium that the target's answers need, if it shares one."""
    num, link = len(state.streams), state.link
    if not link.medium:
        return
    part = 0.0
    if num:
        num_bits = HEADER_BITS + num * (ENTRY_BITS + state.token_bits + TEXT_BITS)
        part = link.airtime_s(num_bits, 1) / plain_s(state, (), now)
    state.drafts.take(state.name, link.medium, part)


def pass_size(entries: Iterable[CommitEntry]) -> tuple[int, float]:
    """Returns the tokens of a pass, and the mean cells of its own stream that each attends to."""
    num_tokens, attended = 0, 0
    for entry in entries:
        num_tokens += entry.num_draft_tokens + 1
        attended += (entry.num_draft_tokens + 1) * entry.prefix_len
    return num_tokens, attended / max(1, num_tokens)


def plain_s(state: SchedulerState, newcomers: Sequence[Stream], now: float) -> float:
    """Returns the seconds of a plain pass of the target's streams and the newcomers."""
    num_streams = len(state.streams) + len(newcomers)
    if not num_streams:
        return 0.0
    cells = state.used_cells + sum(len(stream.token_ids) for stream in newcomers)
    return state.target.expected_s(num_streams, cells, cells / num_streams, now)


def token_s(
    state: SchedulerState, streams: Iterable[Stream], newcomers: Sequence[Stream], now: float
) -> float:
    """Returns the average seconds a token of some of the target's streams.

    newcomers: streams of other targets that would be served here as well. They are taken to be as
    easy to guess as these.
    """
    tokens = [stream.tokens_a_pass for stream in streams]
    pass_s = state.observed.ratio * plain_s(state, newcomers, now)
    return pass_s / (fmean(tokens) if tokens else 1.0)


def reading_s(state: SchedulerState, num_tokens: int) -> float:
    """Returns the seconds until a text has been sent to the target and read."""
    bits = HEADER_BITS + ENTRY_BITS + num_tokens * state.token_bits
    sending_s = state.link.airtime_s(bits, 1)
    read_s = state.target.reading_s(num_tokens, len(state.streams))
    return sending_s + state.observed.ratio * read_s
