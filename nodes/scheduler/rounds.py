"""Rounds in flight: who drafts, what has been guessed, when it is too late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nodes.messages import CommitEntry, DraftReply, GuessEntry
from nodes.scheduler.air import Reservation
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.stream import StreamId


def guesses_of(reply: DraftReply) -> Iterator[tuple[GuessEntry, tuple[int, ...]]]:
    """Each stream's entry with its guesses."""
    offset = 0
    for entry in reply.entries:
        yield entry, reply.draft_token_ids[offset : offset + entry.num_draft_tokens]
        offset += entry.num_draft_tokens


@dataclass(slots=True)
class RoundIds:
    """Numbers of rounds; of all targets together, for draft nodes answer to numbers alone."""

    next: int = 1

    def take(self) -> int:
        self.next += 1
        return self.next - 1


@dataclass(slots=True)
class Share:
    """A draft node's part of a round. crowd: the most rounds it drafted at once meanwhile.

    draft_s: if it makes all guesses it is asked for. num_first: tokens of its first step. factor,
    detour_s: of the node's pace, with which this was predicted. reserved: for its answer.
    """

    node: DraftNode
    draft_s: float
    link_s: float
    crowd: int
    stream_ids: tuple[StreamId, ...]
    num_first: int
    factor: float = 1.0
    detour_s: float = 0.0
    reserved: Reservation | None = None

    @property
    def expected_s(self) -> float:
        """Seconds until its answer, if all that crowd it come first."""
        return self.crowd * (self.draft_s + self.link_s)


@dataclass(slots=True)
class Round:
    """One batch on its way.

    shares: of the nodes that still draft. planned_s: its cycle by the plan, predicted_s: by what
    there was to read as it began, if it went with all its members. asked: caps on guesses. ahead:
    draft nodes go on meanwhile. answer: the turn of what the target will say of it.
    """

    round_id: int
    stream_ids: list[StreamId]
    shares: dict[str, Share]
    started: float
    planned_s: float = 0.0
    predicted_s: float = 0.0
    asked: dict[StreamId, int] = field(default_factory=dict)
    guesses: dict[StreamId, tuple[int, ...]] = field(default_factory=dict)
    ahead: bool = False
    keeps_step: bool = False
    is_verifying: bool = False
    late_s: float = 0.0
    answer: Reservation | None = None

    @property
    def deadline(self) -> float:
        """When those that still draft are left behind: all of them late by their own measure."""
        waits = (s.node.punctuality.patience_s(s.expected_s) for s in self.shares.values())
        return self.started + max(waits, default=0.0)

    def num_asked(self, stream_id: StreamId, entry: CommitEntry) -> int:
        """The guesses that a commit tells of: those judged, or the cap where some were not made.

        0 where the node did not answer: a late one tells nothing. A text that ends with its last
        guess ended the guesses too.
        """
        made = len(self.guesses.get(stream_id, ()))
        if stream_id not in self.guesses or made >= self.asked.get(stream_id, 0):
            return entry.num_draft_tokens
        if entry.finish_reason and entry.num_accepted_tokens == entry.num_draft_tokens:
            return entry.num_draft_tokens
        return self.asked[stream_id]

    def share_node(self, name: str, num_rounds: int) -> None:
        """A node that still drafts for this round has taken on another."""
        if name in self.shares:
            share = self.shares[name]
            share.crowd = max(share.crowd, num_rounds)

    def drop_share(self, name: str) -> Share | None:
        """The node is not waited for any more."""
        share = self.shares.pop(name, None)
        if share is not None:
            share.node.num_waiting -= 1
            if share.reserved is not None:
                share.reserved.answered()
        return share

    def give_up(self, now: float) -> None:
        """Nobody who still drafts is waited for any more."""
        for share in self.shares.values():
            share.node.punctuality.observe(now - self.started, share.expected_s)
        self.drop_all()

    def drop_all(self) -> None:
        for name in list(self.shares):
            self.drop_share(name)

    def ended(self) -> None:
        """Nothing of it is waited for any more."""
        self.drop_all()
        if self.answer is not None:
            self.answer.answered()

    def answered(self, name: str, now: float, draft_s: float = 0.0, num_ready: int = 0) -> float:
        """A node's guesses are there: learn how long it took, where that tells anything.

        draft_s: seconds from request to guesses as the node says, 0.0 if it does not. num_ready:
        guesses that it had made before it was asked. Returns the seconds predicted for the guesses
        it made; 0.0 where its answer tells nothing.
        """
        share = self.drop_share(name)
        if share is None:
            return 0.0
        seconds = now - self.started
        # It cannot have taken longer than it took to hear from it.
        draft_s = min(draft_s, seconds)
        if draft_s > 0.0:
            pace, rtt_s = share.node.pace, share.node.link.rtt_s
            pace.way_seen(seconds - draft_s, share.link_s, rtt_s, share.detour_s)
            pace.seen(now)
            self.late_s = max(self.late_s, seconds - draft_s - share.link_s)
        if share.crowd != 1:
            return 0.0
        share.node.punctuality.observe(now - self.started, share.expected_s)
        if num_ready:
            return 0.0
        asked = [self.asked[s] for s in share.stream_ids if s in self.guesses]
        made = [len(self.guesses[s]) for s in share.stream_ids if s in self.guesses]
        if not asked:
            return 0.0
        # Guesses that were not made have cost one step, not all that were asked for.
        steps = [min(a, m + 1) for a, m in zip(asked, made, strict=True)]
        node, num_first = share.node, share.num_first
        part = node.draft_s(steps, num_first) / node.draft_s(asked, num_first)
        # Where it does not say, it is what the link's part leaves.
        spent_s = draft_s if draft_s > 0.0 else seconds - share.link_s
        node.pace.speed.observe(spent_s, part * share.draft_s, share.factor)
        node.pace.seen(now)
        return part * share.draft_s
