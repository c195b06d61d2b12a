"""The pure mesh with guesses that flow; guesses may be lost, repeated and overtaken on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nodes.draft.guessing import Guessed, GuessingState
from nodes.draft.guessing_node import guess_notice, take_commits
from nodes.engine.protocol import Model, Tokenizer
from nodes.flow.drafts import Drafts
from nodes.flow.scheduler import FlowScheduler
from nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    HoldNotice,
    OpenStreamRequest,
    StreamFailedNotice,
    StreamReadyNotice,
    parts_of,
)
from nodes.stream import StreamId
from nodes.target.node import spec_of, take_guesses, take_holds
from nodes.target.state import TargetState
from policies.joint import joint_plan
from policies.latency import CostTable
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS, Case, PureMesh, _Draft
from tests.nodes.pure_node import notices
from tests.nodes.wild_policy import WildPolicy

_PLANS_ONE_IN = 20
# Longer than from one plan to the next.
_PLAN_S = 1.1


class FlowMesh(PureMesh):
    """num_late_drafts of the case: messages with guesses that are lost, repeated or overtaken."""

    scheduler: Any

    def _make_scheduler(self, case: Case) -> Any:
        policy = WildPolicy(self.choose.below) if case.has_wild_policy else joint_plan
        is_grouped = (None, True)[self.choose.below(2)]
        return FlowScheduler(
            TARGET_COSTS, Drafts(), looks_up=case.has_lookup, policy=policy, is_grouped=is_grouped
        )

    def _make_target(self, model: Model, tokenizer: Tokenizer) -> TargetState:
        return TargetState(
            model,
            tokenizer,
            self.case.prefix_cache_bytes,
            self.grammars,
            midway_tokens=128,
            costs=TARGET_COSTS,
        )

    # -- streams that wait for guesses -------------------------------------------------------------

    def _moves(self) -> list[Callable[[], None]]:
        moves = super()._moves()
        if self.target.has_work() and self.target.patience_s(self.now) > 0.0:
            moves.remove(self._target_steps)
        # Plans are made now and then.
        if self.scheduler.num_streams and self.choose.below(_PLANS_ONE_IN) == 0:
            moves.append(self._plan)
        return moves

    def _plan(self) -> None:
        self.now += _PLAN_S
        self._carry_out(self.scheduler.tick(self.now))

    def _target_steps(self) -> None:
        super()._target_steps()
        self.target.passed(1e-3, self.now)

    # -- what flows --------------------------------------------------------------------------------

    def _rare_moves(self) -> list[Callable[[], None]]:
        moves = super()._rare_moves()
        if self.late_left:
            boxes = [self.target_inbox, *(draft.outbox for draft in self.drafts)]
            for box in boxes:
                if any(isinstance(message, GuessNotice) for message in box):
                    moves.append(partial(self._upset, box))
        return moves

    def _upset(self, box: Any) -> None:
        """Lose, repeat or overtake a message with guesses: a lost one must not matter."""
        self.late_left -= 1
        places = [k for k, message in enumerate(box) if isinstance(message, GuessNotice)]
        place = places[self.choose.below(len(places))]
        message = box[place]
        match self.choose.below(3):
            case 0:
                del box[place]
            case 1:
                box.insert(place, message)
            case 2:
                del box[place]
                box.append(message)

    def _deadlines(self) -> list[float]:
        return []

    def _held_until(self) -> float | None:
        deadlines = [self.scheduler.next_deadline()]
        if self.target.has_work():
            deadlines.append(self.now + self.target.patience_s(self.now))
        return min((each for each in deadlines if each is not None), default=None)

    def _target_takes(self) -> None:
        if isinstance(self.target_inbox[0], GuessNotice):
            take_guesses(self.target, self.target_inbox.popleft())
        elif isinstance(self.target_inbox[0], HoldNotice):
            take_holds(self.target, self.target_inbox.popleft())
        else:
            super()._target_takes()

    # -- the drafts --------------------------------------------------------------------------------

    def _join(self, draft: _Draft) -> None:
        pass_s: Callable[[int], float] = CostTable((1, 32), (1e-5, 1e-4)).at
        drafter: Any = GuessingState(
            self._draft_engine(draft.case),
            pass_s,
            grammars=self.grammars if draft.case.has_grammars else None,
        )
        draft.drafter = drafter
        self._carry_out(self.scheduler.draft_joined(draft.name, DRAFT_COSTS))

    def _draft_takes(self, draft: _Draft) -> None:
        drafter: Any = draft.drafter
        message = draft.inbox.popleft()
        match message:
            case OpenStreamRequest():
                self._draft_says(draft, drafter.open(spec_of(message)))
            case CloseStreamNotice(stream_id=s, generation=g):
                drafter.close(StreamId(s), g)
            case CommitNotice():
                self._draft_says(draft, take_commits(drafter, message))

    def _draft_says(self, draft: _Draft, events: Sequence[object]) -> None:
        draft.outbox.extend(notices(events))
        guessed = (event for event in events if isinstance(event, Guessed))
        draft.outbox.extend(guess_notice(event.parts) for event in guessed)

    def _scheduler_takes_from_draft(self, draft: _Draft) -> None:
        message = draft.outbox.popleft()
        out: Any = []
        match message:
            case GuessNotice():
                out = self.scheduler.guessed(draft.name, parts_of(message))
            case StreamReadyNotice(stream_id=s, generation=g):
                out = self.scheduler.draft_ready(draft.name, StreamId(s), g, self.now)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                out = self.scheduler.draft_failed(draft.name, StreamId(s), g, reason, self.now)
        self._carry_out(out)
