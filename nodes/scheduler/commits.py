"""Messages to draft nodes about the streams that they follow: commits, texts in pieces. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodes.messages import MAX_GAMMA, MAX_STREAMS_PER_MESSAGE, AddedEntry, CommitNotice
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.drafts import DraftRecord
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.worker.stream import StreamId

if TYPE_CHECKING:
    from nodes.scheduler.state import SchedulerState


def tell_followers(state: SchedulerState, now: float) -> list[Instruction]:
    """Send new commits and the next pieces of long texts, one message to each draft node whose link
    is free."""
    out: list[Instruction] = []
    if state.speculation is not Speculation.ON:
        return out
    for name in list(state.untold):
        node = state.drafts.get(name)
        if node is None:
            del state.untold[name]
        elif now >= node.free_at:
            out += _send(state, node, now)
    return out


def _send(state: SchedulerState, node: DraftRecord, now: float) -> list[Instruction]:
    """Fill one message with tokens that a draft node has not received yet."""
    entries: list[AddedEntry] = []
    token_ids: list[int] = []
    waiting = list(state.untold.pop(node.name))
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
        new = stream.token_ids[follow.told :][:room]
        if new:
            counts = min(MAX_GAMMA, follow.num_used), min(MAX_GAMMA, follow.num_offered)
            entries.append(AddedEntry(stream_id, follow.number, follow.told, len(new), *counts))
            token_ids += new
            follow.told += len(new)
            follow.num_used = follow.num_offered = 0
        if follow.told < len(stream.token_ids):
            again.append(stream_id)
    if rest or again:
        state.untold[node.name] = dict.fromkeys([*rest, *again])
    if not entries:
        return []
    message_s = node.message_s(len(entries), len(token_ids)) + node.owed_s
    node.free_at, node.owed_s = now + message_s / node.share_down, 0.0
    notice = CommitNotice(tuple(entries), tuple(token_ids), node.rate_up_bps)
    return [ToDraft(node.name, notice)]


def next_deadline(state: SchedulerState) -> float | None:
    """Returns the time by which `tick` must be called; None if no message is waiting."""
    if state.speculation is not Speculation.ON:
        return None
    nodes = (state.drafts.get(name) for name in state.untold)
    return min((node.free_at for node in nodes if node is not None), default=None)
