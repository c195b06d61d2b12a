"""What draft nodes are told of texts: in pieces, beside rounds, and in their gaps."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.grants import Air
from nodes.messages import DraftRequest
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.scheduler.rounds import RoundIds
from nodes.scheduler.stream import Stream

# A draft node that has not read a text by then is not waited for until it has.
_READ_TIMEOUT_S = 30.0


class Texts:
    """Of one target's streams. It shares draft nodes and plan with the scheduler."""

    def __init__(self, drafts: DraftPool, cycle: CycleState, air: Air, round_ids: RoundIds) -> None:
        self._drafts = drafts
        self._cycle = cycle
        self._air = air
        self._round_ids = round_ids

    def note_waiting(self, stream: Stream, now: float) -> None:
        """Say why a stream that shall guess does not yet; do without a node that never answers."""
        placement = stream.draft
        if placement is None or placement.is_late or not (stream.is_behind or not stream.can_guess):
            return
        stream.plain_reason = f"draft off: {placement.node} still reads the text"
        if placement.asked_at is None:
            placement.asked_at = now
        elif now - placement.asked_at > _READ_TIMEOUT_S:
            placement.is_late, placement.catching_up = True, False
            self._drafts[placement.node].is_silent = True
            stream.plain_reason = f"draft off: {placement.node} does not answer"
            self._cycle.members_changed()

    def catch_up(self, streams: Sequence[Stream], now: float) -> list[Instruction]:
        """Tell draft nodes what was decoded plainly, for streams that shall guess."""
        by_node: dict[str, list[Stream]] = {}
        taken: set[str] = set()
        for stream in streams:
            if stream.draft is None or stream.draft.catching_up:
                continue
            if not self._takes_its_turn(stream, taken, now):
                continue
            stream.draft.catching_up = True
            stream.drop_trial()
            stream.draft.asked_at = now
            by_node.setdefault(stream.draft.node, []).append(stream)
        out: list[Instruction] = []
        for name, members in by_node.items():
            new_token_ids: list[int] = []
            most = self._drafts[name].piece_tokens
            entries = tuple(s.draft_entry(0, new_token_ids, most=most) for s in members)
            request = DraftRequest(self._round_ids.take(), entries, tuple(new_token_ids))
            out.append(ToDraft(name, request))
        return out

    def is_being_told(self, stream: Stream) -> bool:
        """Whether a stream's draft node knows but a piece of its text, and could hear the next."""
        placement = stream.draft
        if placement is None or stream.is_by_lookup or not stream.can_guess:
            return False
        return stream.backlog > self._drafts[placement.node].piece_tokens

    def _takes_its_turn(self, stream: Stream, taken: set[str], now: float) -> bool:
        """Whether a text goes now; the air is reserved for it then. taken: media on which another
        has just gone.

        Texts give way to the messages of rounds, but not for longer than these take turns: who
        cannot guess for want of its text has fewer tokens.
        """
        assert stream.draft is not None
        node, asked_at = self._drafts[stream.draft.node], stream.draft.asked_at
        if not node.link.medium:
            return True
        medium = self._air[node.link.medium]
        air_s = node.message_s(1, min(stream.backlog, node.piece_tokens))
        is_urgent = asked_at is not None and 0.0 < self._cycle.phase_s <= now - asked_at
        if not medium.is_free(now, air_s) and (not is_urgent or node.link.medium in taken):
            return False
        taken.add(node.link.medium)
        medium.reserve(now, now, air_s)
        return True
