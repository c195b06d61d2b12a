"""Adds what a pass commits to journals, and sends it to clients and draft nodes. Pure."""

from __future__ import annotations

from airdraft.nodes.messages import MAX_STREAMS_PER_MESSAGE, AddedEntry, CommitEntry, CommitNotice
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.drafts import DraftRecord
from airdraft.nodes.scheduler.endings import LEASE_TOKENS, abort, finish, reopen
from airdraft.nodes.scheduler.instructions import Emit, Instruction, ToDraft
from airdraft.nodes.scheduler.reasons import plain_label
from airdraft.nodes.scheduler.state import SchedulerState, find_current
from airdraft.nodes.scheduler.stream import ReadingText, Running, Stream
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.acceptance import GUESS_MEMORY, AcceptanceEstimate


def commit(
    state: SchedulerState,
    entry: CommitEntry,
    token_ids: tuple[int, ...],
    added: list[Stream],
    now: float,
) -> list[Instruction]:
    """Handle one entry of a pass. A stream that continues is appended to `added`."""
    stream = find_current(state, StreamId(entry.stream_id), entry.generation)
    if stream is None:
        return []
    length = len(stream.token_ids)
    if entry.prefix_len != length:
        state.num_stale += 1
        if entry.prefix_len > length:
            return reopen(state, stream, "messages with tokens of the target were lost")
        return []
    plain = plain_label(state, stream, entry)
    if plain == "slower":
        stream.compared = state.comparisons.of(len(state.streams))
    state.counts.committed(entry, entry.num_tokens, plain)
    if len(token_ids) > stream.tokens_left:
        return abort(state, stream, "the target committed more tokens than max_tokens allows")
    if not (token_ids or entry.finish_reason):
        return abort(state, stream, "the target reported a pass without a token")
    if len(entry.scores) != (len(token_ids) if stream.spec.num_logprobs >= 0 else 0):
        error = "the target sent log-probabilities for another number of tokens"
        return abort(state, stream, error)
    out: list[Instruction] = []
    position = stream.num_output
    stream.token_ids += token_ids
    if token_ids:
        stream.num_reopened = 0
    stream.count(entry, plain, now)
    follow = stream.follow
    if follow is not None:
        num_wrong = max(0, entry.num_compared - entry.num_right)
        is_wrong = entry.num_other < num_wrong
        follow.has_diverged = is_wrong or (follow.has_diverged and not entry.num_offered)
        follow.num_late += entry.num_late
        follow.num_taken += entry.num_draft_tokens - entry.num_looked_up - entry.num_in_turns
        state.unsent.setdefault(follow.node, {})[stream.spec.stream_id] = None
        if entry.num_compared:
            follow.compared_at = len(stream.token_ids)
            # Of many commits, because a stream that moves has its text read again.
            estimate = AcceptanceEstimate(memory=GUESS_MEMORY)
            seen = state.alphas.setdefault(follow.node, estimate)
            seen.observe(entry.num_compared, entry.num_right)
            if follow.node in state.drafts:
                state.drafts[follow.node].others.observe(num_wrong, entry.num_other)
    if token_ids or entry.text:
        # An accepted end-of-text guess is not a token of the text.
        num_accepted = min(entry.num_accepted_tokens, len(token_ids))
        counts = entry.num_draft_tokens, num_accepted
        output = token_ids, entry.text, *counts, entry.scores, bool(entry.finish_reason)
        out.append(Emit(stream.spec.stream_id, position, *output))
    if entry.finish_reason:
        return [*out, *finish(state, stream, entry.finish_reason)]
    if stream.tokens_left <= 0:
        error = "the target sent the last token without a finish reason"
        return [*out, *abort(state, stream, error)]
    if isinstance(stream.phase, ReadingText):
        # The notice that the stream is ready was lost or overtaken; a commit implies it.
        stream.phase, stream.is_parked = Running(length + LEASE_TOKENS), False
    added.append(stream)
    return out


def tell_followers(state: SchedulerState, now: float) -> list[Instruction]:
    """Send new commits and the next pieces of long texts, one message to each draft node whose link
    is free."""
    out: list[Instruction] = []
    if state.speculation is not Speculation.ON:
        return out
    for name in list(state.unsent):
        node = state.drafts.get(name)
        if node is None:
            del state.unsent[name]
        elif now >= node.free_at:
            out += _send(state, node, now)
    return out


def _send(state: SchedulerState, node: DraftRecord, now: float) -> list[Instruction]:
    """Fill one message with tokens that a draft node has not received yet."""
    entries: list[AddedEntry] = []
    token_ids: list[int] = []
    waiting = list(state.unsent.pop(node.name))
    # A stream that has had a piece of a long text comes after all others the next time.
    rest: list[StreamId] = []
    again: list[StreamId] = []
    for index, stream_id in enumerate(waiting):
        stream = state.streams.get(stream_id)
        follow = stream.follow if stream is not None else None
        if stream is None or follow is None or follow.node != node.name:
            continue
        room = node.piece_tokens - len(token_ids)
        if len(entries) == MAX_STREAMS_PER_MESSAGE or room <= 0:
            rest = waiting[index:]
            break
        new = stream.token_ids[follow.num_sent :][:room]
        if new:
            entries.append(AddedEntry(stream_id, follow.number, follow.num_sent, len(new)))
            token_ids += new
            follow.num_sent += len(new)
        if follow.num_sent < len(stream.token_ids):
            again.append(stream_id)
    if rest or again:
        state.unsent[node.name] = dict.fromkeys([*rest, *again])
    if not entries:
        return []
    message_s = node.message_s(len(entries), len(token_ids)) + node.owed_s
    node.free_at, node.owed_s = now + message_s / node.share_down, 0.0
    notice = CommitNotice(tuple(entries), tuple(token_ids), node.rate_up_bps)
    return [ToDraft(node.name, notice)]
