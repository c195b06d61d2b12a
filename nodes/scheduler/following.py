"""Assigns draft nodes to the streams of a target. Pure.

A stream gets the draft node with which its tokens are predicted to come soonest, by the node's
speed and link and by how often its guesses were right for this target. It loses the node if that is
lost, refuses the stream, or never has a guess in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from airdraft.nodes.messages import CloseStreamNotice
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.drafts import DraftRecord, Wanted
from airdraft.nodes.scheduler.instructions import Instruction, ToDraft
from airdraft.nodes.scheduler.state import SchedulerState
from airdraft.nodes.scheduler.stream import SILENT_TOKENS, Follow, Stream

# After this many draft nodes have died while they followed a stream, it goes on without one.
_MOST_DRAFT_LOSSES: Final = 2
# Streams that may move to another draft node at a time. Each is decoded without guesses until the
# new node has read its text.
_MOST_MOVING: Final = 2


def find_follower(state: SchedulerState, stream: Stream) -> list[Instruction]:
    """Assign a draft node to a stream that wants one and has none, or set its refusal."""
    may_guess = state.mode.has_guesses and state.speculation is Speculation.ON
    wants_one = stream.fixed_gamma != 0 and stream.tokens_left > 1
    if stream.follow is not None or not (may_guess and wants_one):
        return []
    if stream.num_draft_losses >= _MOST_DRAFT_LOSSES:
        stream.refusal = "its draft nodes died while they followed this text"
        return []
    wanted, drafts = _wanted(state, stream), state.drafts
    node = drafts.best_for(wanted)
    if node is None:
        # A reason that was set when a draft node refused or lost the stream is kept.
        if not state.usable:
            stream.refusal = state.no_draft
        elif all(drafts.is_full(drafts[name].link.medium) for name in state.usable):
            stream.refusal = "the answers of targets fill the shared medium"
        elif not wanted.refused or not stream.refusal:
            stream.refusal = "no draft node has room for another text"
        return []
    return _follow(state, stream, node)


def _wanted(state: SchedulerState, stream: Stream) -> Wanted:
    length = len(stream.token_ids)
    names = state.usable, stream.backoff.at(length)
    return Wanted(*names, length, stream.tokens_left, state.pass_s, state.alphas)


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
    node.followed[stream.spec.stream_id] = length
    state.drafts.allot(node.link.medium)
    node.owed_s += node.message_s(1, num_sent)
    if num_sent < length:
        state.unsent.setdefault(node.name, {})[stream.spec.stream_id] = None
    spec = replace(
        stream.spec,
        generation=stream.last_number,
        token_ids=tuple(stream.token_ids[:num_sent]),
        num_known=length if num_sent < length else 0,
    )
    return [ToDraft(node.name, spec)]


def unfollow(state: SchedulerState, stream: Stream) -> list[Instruction]:
    """End the following of a stream; guesses that its draft node still sends are ignored."""
    follow, stream.follow = stream.follow, None
    node = state.drafts.get(follow.node) if follow is not None else None
    if follow is None or node is None:
        return []
    node.followed.pop(stream.spec.stream_id, None)
    if not node.followed:
        # Otherwise texts of streams that ended before any commit was sent would add up.
        node.owed_s = 0.0
    state.drafts.allot(node.link.medium)
    return [ToDraft(node.name, CloseStreamNotice(stream.spec.stream_id, follow.number))]


def switch_guesses(state: SchedulerState, speculation: Speculation) -> list[Instruction]:
    """Switch the guesses of draft nodes on or off.

    The first message after a switch to ON holds all tokens committed meanwhile.
    """
    state.speculation = speculation
    out: list[Instruction] = []
    for stream in state.streams.values():
        follow = stream.follow
        if follow is None:
            out += find_follower(state, stream)
        elif speculation is Speculation.ON:
            follow.compared_at = len(stream.token_ids)
    return out


def rebalance(state: SchedulerState) -> list[Instruction]:
    """Move streams to draft nodes with which their tokens come sooner, a few at a time."""
    if state.speculation is not Speculation.ON:
        return []
    follows = [(stream, stream.follow) for stream in state.streams.values() if stream.follow]
    ready = [(stream, follow) for stream, follow in follows if follow.is_ready]
    out, num_moving = list[Instruction](), len(follows) - len(ready)
    for stream, follow in ready:
        if num_moving >= _MOST_MOVING:
            break
        present = state.drafts[follow.node]
        node = state.drafts.better_for(_wanted(state, stream), present)
        if node is not None:
            out += [*unfollow(state, stream), *_follow(state, stream, node)]
            num_moving += 1
    return out


def ready(state: SchedulerState, stream: Stream) -> None:
    """The draft node of a stream has read its text."""
    follow = stream.follow
    if follow is None or follow.is_ready:
        return
    follow.is_ready, follow.compared_at = True, len(stream.token_ids)
    state.drafts[follow.node].followed[stream.spec.stream_id] = 0


def leave(
    state: SchedulerState, stream: Stream, reason: str, *, for_good: bool = False
) -> list[Instruction]:
    """Look for another draft node for a stream, and keep it off its present one for a while.

    for_good: for ever.
    """
    assert stream.follow is not None
    stream.backoff.add(stream.follow.node, len(stream.token_ids), for_good=for_good)
    stream.refusal = f"draft node {stream.follow.node}: {reason}"
    return unfollow(state, stream) + find_follower(state, stream)


def leave_silent(state: SchedulerState, streams: Iterable[Stream]) -> list[Instruction]:
    """End followings that have had no comparable guess for SILENT_TOKENS tokens."""
    out: list[Instruction] = []
    if state.speculation is not Speculation.ON:
        return out
    for stream in streams:
        follow, length = stream.follow, len(stream.token_ids)
        if follow and follow.is_ready and length - follow.compared_at > SILENT_TOKENS:
            out += leave(state, stream, "it sent no guesses in time")
    return out
