"""What a scheduler tells of its plans and rounds, to whoever records them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from nodes.messages import CommitEntry
from nodes.scheduler.rounds import Round
from nodes.stream import StreamId
from policies.plan import Observation, Plan


class Recorder(Protocol):
    """Called with what happens, as it happens; `now` is the scheduler's.

    Must not change or keep what it is given, but for observations and plans, which are values.
    """

    def planned(self, observation: Observation, plan: Plan, now: float) -> None:
        """A plan is in force, made for this observation."""

    def round_started(
        self, current: Round, batch: int, stops: Mapping[StreamId, float], now: float
    ) -> None:
        """batch: its number in the plan in force, from 1; 0 where that has changed meanwhile."""

    def drafted(
        self,
        round_id: int,
        node: str,
        draft_s: float,
        predicted_s: float,
        rtt_s: float,
        now: float,
        ahead: tuple[int, int] = (0, 0),
    ) -> None:
        """A draft node has answered. draft_s: as it says itself, until its guesses were there.

        predicted_s: for the guesses that it made; 0.0 where others' rounds were in the way. ahead:
        tokens that it had drafted before it was asked, of use and of none.
        """

    def given_up(self, round_id: int, nodes: Sequence[str], now: float) -> None:
        """These draft nodes were late or left: the round goes on without their guesses."""

    def verify_sent(self, round_id: int, num_tokens: int, predicted_s: float, now: float) -> None:
        """predicted_s: of a pass of these tokens alone."""

    def committed(
        self,
        pass_s: float,
        predicted_s: float,
        entries: Sequence[tuple[CommitEntry, int]],
        now: float,
        num_read: int = 0,
    ) -> None:
        """The target reports a pass. entries: each with its round's id, 0 for a leased stream.
        num_read: tokens of texts that it read beside."""

    def lap_done(self, current: Round, now: float) -> None:
        """All streams of a round are back."""

    def trial_started(
        self, round_id: int, node: str, stream_ids: Sequence[int], now: float
    ) -> None:
        """A draft node is asked for guesses that are compared with what plain passes give."""

    def trial_decided(
        self, stream_id: StreamId, num_draft_tokens: int, num_right: int, now: float
    ) -> None: ...
