"""Handles what draft nodes say of the streams that they follow."""

from __future__ import annotations

from airdraft.nodes.coordinator.data import Data, Sender
from airdraft.nodes.coordinator.members.record import DraftRecord, TargetRecord
from airdraft.nodes.coordinator.requests import running
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    ChainPart,
    GuessNotice,
    StreamFailedNotice,
    StreamReadyNotice,
    with_tokens,
)
from airdraft.nodes.worker.stream import StreamId


def _target_of(data: Data, stream_id: int) -> TargetRecord | None:
    stream = data.requests.streams.get(StreamId(stream_id))
    return None if stream is None else stream.target


def guessed(data: Data, sender: Sender, notice: GuessNotice, now: float) -> list[Send]:
    """Pass guesses on to the targets that serve their streams."""
    draft = sender.draft
    draft.busy_s += notice.draft_us / 1e6
    data.requests.count_bytes(notice, sender.num_bytes, to_draft=True)
    found: dict[TargetRecord, list[tuple[ChainPart, tuple[int, ...]]]] = {}
    for part, guesses in with_tokens(notice.parts, notice.token_ids):
        if (target := _target_of(data, part.stream_id)) is not None:
            found.setdefault(target, []).append((part, guesses))
    out: list[Send] = []
    for target, parts in found.items():
        data.tracing.guessed(target, draft.name, parts, now)
        passed_on = target.scheduler.guessed(draft.name, parts, now)
        out += running.deliver(data, target, passed_on, now)
    return out


def ready(data: Data, sender: Sender, notice: StreamReadyNotice, now: float) -> list[Send]:
    draft = sender.draft
    if (target := _target_of(data, notice.stream_id)) is not None:
        stream_id = StreamId(notice.stream_id)
        target.scheduler.draft_ready(draft.name, stream_id, notice.generation)
    return []


def failed(data: Data, sender: Sender, notice: StreamFailedNotice, now: float) -> list[Send]:
    draft = sender.draft
    if (target := _target_of(data, notice.stream_id)) is None:
        return []
    failure = StreamId(notice.stream_id), notice.generation, notice.reason, notice.code
    left = target.scheduler.draft_failed(draft.name, *failure)
    return running.deliver(data, target, left, now)


def draft_in(data: Data, draft: DraftRecord, now: float) -> list[Send]:
    """Have the streams of all targets know a draft node that has joined."""
    out: list[Send] = []
    for target in data.roster.targets():
        if draft.can_draft_for(target):
            out += running.deliver(data, target, draft.draft_for(target.scheduler), now)
    return out


def draft_out(data: Data, draft: DraftRecord, *, has_died: bool, now: float) -> list[Send]:
    """Have the streams that followed a draft node go on without it."""
    out: list[Send] = []
    for target in data.roster.targets():
        lost = target.scheduler.draft_lost(draft.name, has_died=has_died)
        out += running.deliver(data, target, lost, now)
    # The first scheduler has removed it and divided its medium anew, if there is a target.
    data.drafts.pop(draft.name, None)
    return out
