"""Assigns draft nodes to the streams of a target, and forwards their guesses. Pure.

A stream gets the draft node with which its tokens are predicted to come soonest, by the node's
speed and link and by how often its guesses were right for this target. It loses the node if that is
lost, refuses the stream, or never has a guess in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nodes.messages import ChainPart, CloseStreamNotice, GuessNotice
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.drafts import DraftRecord, Wanted
from nodes.scheduler.instructions import Instruction, ToDraft, ToTarget, open_request
from nodes.scheduler.stream import Follow, Stream
from nodes.worker.stream import StreamId

if TYPE_CHECKING:
    from nodes.scheduler.state import SchedulerState

# A stream loses its draft node after this many tokens without a guess that could be compared: the
# node is silent, or its guesses arrive after the text has passed them.
_SILENT_TOKENS: Final = 64
# After this many draft nodes have died while they followed a stream, it goes on without one.
_MOST_DRAFT_LOSSES: Final = 2
_WHY_NOT: Final = {
    Speculation.PAUSED: "draft off: the speed without guesses is being measured",
    Speculation.OFF: "draft off: this target is faster without guesses at present",
}
# Streams that may move to another draft node at a time. Each is decoded without guesses until the
# new node has read its text.
_MOST_MOVING: Final = 2


def _still_reads(name: str) -> str:
    """Returns the reason why a stream has no guesses yet."""
    return f"draft off: {name} is still reading the text"


def find_follower(state: SchedulerState, stream: Stream) -> list[Instruction]:
    """Assign a draft node to a stream that wants one and has none, or set its plain_reason."""
    if stream.fixed_gamma == 0:
        stream.plain_reason = "draft off: the request sets gamma to 0"
    if stream.follow is not None or not (state.has_followers and stream.wants_follower):
        return []
    if state.speculation is not Speculation.ON:
        stream.plain_reason = _WHY_NOT[state.speculation]
        return []
    if stream.num_draft_losses >= _MOST_DRAFT_LOSSES:
        stream.plain_reason = "draft off: its draft nodes died while they followed this text"
        return []
    wanted = _wanted(state, stream)
    node = state.drafts.best_for(wanted)
    if node is None:
        # A reason that was set when a draft node refused or lost the stream is kept.
        if not state.usable:
            stream.plain_reason = "draft off: there is no draft node"
        elif _has_no_air(state):
            stream.plain_reason = "draft off: the answers of targets fill the shared medium"
        elif not wanted.refused or not stream.plain_reason:
            stream.plain_reason = "draft off: no draft node has room for this text"
        return []
    return _follow(state, stream, node)


def _wanted(state: SchedulerState, stream: Stream) -> Wanted:
    length = len(stream.token_ids)
    names = state.usable, stream.backoff.at(length)
    return Wanted(*names, length, stream.tokens_left, state.pass_s, state.alphas)


def _has_no_air(state: SchedulerState) -> bool:
    nodes = [state.drafts[name] for name in state.usable]
    return all(state.drafts.is_full(node.link.medium) for node in nodes)


def leave_full(state: SchedulerState) -> list[Instruction]:
    """End followings whose medium is needed for the answers of targets."""
    out: list[Instruction] = []
    for stream in state.streams.values():
        if stream.follow is not None:
            node = state.drafts.get(stream.follow.node)
            if node is not None and state.drafts.is_full(node.link.medium):
                out += unfollow(state, stream)
    return out


def _follow(state: SchedulerState, stream: Stream, node: DraftRecord) -> list[Instruction]:
    """Have a draft node follow a stream. A long text is sent in pieces; this sends the first."""
    length = len(stream.token_ids)
    stream.last_number += 1
    num_sent = min(length, node.piece_tokens)
    stream.follow = Follow(node.name, stream.last_number, num_sent, compared_at=length)
    node.followed.add(stream.spec.stream_id)
    state.drafts.allot(node.link.medium)
    node.num_unread += length
    node.owed_s += node.message_s(1, num_sent)
    if num_sent < length:
        state.untold.setdefault(node.name, {})[stream.spec.stream_id] = None
    stream.plain_reason = _still_reads(node.name)
    spec = replace(
        stream.spec,
        generation=stream.last_number,
        token_ids=tuple(stream.token_ids[:num_sent]),
        num_known=length if num_sent < length else 0,
    )
    return [ToDraft(node.name, open_request(spec))]


def unfollow(state: SchedulerState, stream: Stream) -> list[Instruction]:
    """End the following of a stream; guesses that its draft node still sends are ignored."""
    follow, stream.follow = stream.follow, None
    if follow is None:
        return []
    node = state.drafts.get(follow.node)
    if node is None:
        return []
    node.followed.discard(stream.spec.stream_id)
    state.drafts.allot(node.link.medium)
    if not follow.is_ready:
        node.num_unread = max(0, node.num_unread - len(stream.token_ids))
    notice = CloseStreamNotice(stream.spec.stream_id, follow.number)
    return [ToDraft(node.name, notice)]


def speculate(state: SchedulerState, speculation: Speculation) -> list[Instruction]:
    """Switch the guesses of draft nodes on or off.

    The first message after a switch to ON holds all tokens committed meanwhile.
    """
    state.speculation = speculation
    out: list[Instruction] = []
    for stream in state.streams.values():
        follow = stream.follow
        if follow is None:
            out += find_follower(state, stream)
        elif speculation is not Speculation.ON:
            stream.plain_reason = _WHY_NOT[speculation]
        else:
            follow.compared_at = len(stream.token_ids)
            stream.plain_reason = "" if follow.is_ready else _still_reads(follow.node)
    return out


def draft_joined(state: SchedulerState, node: DraftRecord) -> list[Instruction]:
    """A draft node may follow streams of this target."""
    if node.name not in state.drafts:
        state.drafts.add(node)
    state.usable.add(node.name)
    out: list[Instruction] = []
    for stream in state.streams.values():
        stream.backoff.forget(node.name)
        out += find_follower(state, stream)
    return out + rebalance(state)


def draft_lost(state: SchedulerState, name: str, *, has_died: bool = True) -> list[Instruction]:
    """A draft node is gone. has_died: it was lost and did not leave by itself."""
    state.usable.discard(name)
    # Another one of that name may have another model.
    state.alphas.pop(name, None)
    node = state.drafts.remove(name)
    if node is not None:
        state.drafts.allot(node.link.medium)
    out: list[Instruction] = []
    for stream in state.streams.values():
        if stream.follow is not None and stream.follow.node == name:
            stream.follow = None
            stream.num_draft_losses += has_died
            out += find_follower(state, stream)
    return out


def rebalance(state: SchedulerState) -> list[Instruction]:
    """Move streams to draft nodes with which their tokens come sooner, a few at a time."""
    if state.speculation is not Speculation.ON:
        return []
    reading = [s for s in state.streams.values() if s.follow and not s.follow.is_ready]
    out: list[Instruction] = []
    num_moving = len(reading)
    for stream in state.streams.values():
        if num_moving >= _MOST_MOVING:
            break
        follow = stream.follow
        if follow is None or not follow.is_ready:
            continue
        node = state.drafts.better_for(_wanted(state, stream), state.drafts[follow.node])
        if node is not None:
            out += [*unfollow(state, stream), *_follow(state, stream, node)]
            num_moving += 1
    return out


def draft_ready(state: SchedulerState, name: str, stream_id: StreamId, number: int) -> None:
    """A draft node has read a text."""
    stream = _followed(state, name, stream_id, number)
    if stream is None or stream.follow is None or stream.follow.is_ready:
        return
    stream.follow.is_ready = True
    stream.follow.compared_at = len(stream.token_ids)
    stream.plain_reason = _WHY_NOT.get(state.speculation, "")
    node = state.drafts[name]
    node.num_unread = max(0, node.num_unread - len(stream.token_ids))


def draft_failed(
    state: SchedulerState,
    name: str,
    stream_id: StreamId,
    number: int,
    reason: str,
    *,
    for_good: bool,
) -> list[Instruction]:
    """A draft node cannot follow a stream any longer. for_good: it never will."""
    stream = _followed(state, name, stream_id, number)
    if stream is None:
        return []
    stream.backoff.add(name, len(stream.token_ids), for_good=for_good)
    unfollow(state, stream)
    out = find_follower(state, stream)
    if not out:
        stream.plain_reason = f"draft off: {reason}"
    return out


def guessed(
    state: SchedulerState, name: str, parts: Iterable[tuple[ChainPart, tuple[int, ...]]]
) -> list[Instruction]:
    """Forward guesses for streams that the draft node follows; others are counted as stale."""
    forwarded: list[ChainPart] = []
    token_ids: list[int] = []
    for part, guesses in parts:
        stream = _followed(state, name, StreamId(part.stream_id), part.follow)
        if stream is None:
            continue
        stream.num_draft_losses = 0
        forwarded.append(part)
        token_ids += guesses
    return [ToTarget(GuessNotice(tuple(forwarded), tuple(token_ids)))] if forwarded else []


def _followed(state: SchedulerState, name: str, stream_id: StreamId, number: int) -> Stream | None:
    stream = state.streams.get(stream_id)
    follow = stream.follow if stream is not None else None
    if follow is None or (follow.node, follow.number) != (name, number):
        state.num_stale += 1
        return None
    return stream


def leave_silent(state: SchedulerState, streams: Iterable[Stream]) -> list[Instruction]:
    """End followings that have had no comparable guess for _SILENT_TOKENS tokens."""
    out: list[Instruction] = []
    if state.speculation is not Speculation.ON:
        return out
    for stream in streams:
        follow, length = stream.follow, len(stream.token_ids)
        if follow is None or not follow.is_ready:
            continue
        if length - follow.compared_at > _SILENT_TOKENS:
            stream.backoff.add(follow.node, length)
            out += unfollow(state, stream)
            stream.plain_reason = f"draft off: {follow.node} sent no guesses in time"
            out += find_follower(state, stream)
    return out
