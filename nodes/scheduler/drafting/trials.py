"""Rounds on trial: guesses for streams that are decoded plainly, compared with their texts.

What guesses are worth is learnt so before it costs anything: the target never sees them, and the
draft node works while the target runs its plain passes. A stream is tried so before its first
round, where little is known of its draft model (`tries.py`) and the others do not guess
(`probation.py`), and again now and then while it is plain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nodes.messages import DraftReply, DraftRequest
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.drafting.tries import Trial
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.scheduler.rounds import guesses_of
from nodes.scheduler.stream import Leased, Stream
from nodes.stream import StreamId

# Caps as those of a typical plan. What is not made counts as not accepted, so a stop above those of
# plans that pay little would say of their streams that guesses do not pay at all.
_GAMMA = 4
_STOP = 0.1


def begin(streams: Iterable[Stream], drafts: DraftPool, round_id: int) -> list[Instruction]:
    """Ask idle draft nodes for guesses of plain streams that are due, all in rounds of one id."""
    able: dict[str, list[Stream]] = {}
    for stream in streams:
        if stream.draft is None or not _can_be_tried(stream):
            continue
        # Nobody else's round may take longer for it.
        if drafts[stream.draft.node].num_waiting == 0:
            able.setdefault(stream.draft.node, []).append(stream)
    by_node = {}
    for name, members in able.items():
        if any(_is_due(stream) for stream in members):
            by_node[name] = [s for s in members if _is_due(s, is_beside_others=True)]
    out: list[Instruction] = []
    for name, members in by_node.items():
        new_token_ids: list[int] = []
        entries = []
        for stream in members:
            assert stream.tries is not None
            stream.tries.last = len(stream.token_ids)
            stream.tries.trial = Trial(round_id, len(stream.token_ids), _GAMMA)
            entries.append(stream.draft_entry(_GAMMA, new_token_ids, _STOP))
        out.append(ToDraft(name, DraftRequest(round_id, tuple(entries), tuple(new_token_ids))))
    return out


def _can_be_tried(stream: Stream) -> bool:
    placement = stream.draft
    if stream.tries is None or stream.is_by_lookup or not isinstance(stream.phase, Leased):
        return False
    # A node that is behind reads what it lacks with the trial, unless it does so already.
    is_free = placement is not None and not placement.catching_up
    return is_free and stream.can_guess and stream.tokens_left > _GAMMA


def _is_due(stream: Stream, *, is_beside_others: bool = False) -> bool:
    tries, num_tokens = stream.tries, len(stream.token_ids)
    return tries is not None and tries.is_due(num_tokens, is_beside_others=is_beside_others)


def is_under_way(stream: Stream) -> bool:
    """Whether a draft node guesses for the stream while it is decoded plainly."""
    tries = stream.tries
    return tries is not None and tries.trial is not None and tries.trial.guesses is None


def answered(streams: Mapping[StreamId, Stream], node: str, reply: DraftReply) -> list[Stream]:
    """Take a draft node's guesses; returns the streams for whose trials they are."""
    found = []
    for entry, guesses in guesses_of(reply):
        stream = streams.get(StreamId(entry.stream_id))
        if stream is None or stream.draft is None or stream.tries is None:
            continue
        trial = stream.tries.trial
        if trial is None or (trial.round_id, trial.prefix_len) != (reply.round, entry.prefix_len):
            continue
        if (stream.draft.node, stream.draft.generation) == (node, entry.generation):
            trial.guesses = guesses
            found.append(stream)
    return found


def decided(stream: Stream) -> tuple[Trial, int] | None:
    """A trial that the text has decided, and how many of its guesses were right; it is over."""
    trial = stream.tries.trial if stream.tries is not None else None
    right = trial.num_right(stream.token_ids) if trial is not None else None
    if stream.tries is None or trial is None or right is None:
        return None
    stream.tries.trial = None
    stream.tries.num_done += 1
    return trial, right
