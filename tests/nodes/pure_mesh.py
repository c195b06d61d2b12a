"""Scheduler, target and drafts without sockets or clocks; who moves next is chosen from outside."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nodes.draft.node import guess_notice, take_commits
from nodes.draft.state import DraftState, Guessed
from nodes.engine.protocol import Model, Tokenizer
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    parts_of,
)
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget
from nodes.scheduler.planning import MODES, Mode
from nodes.target.events import Committed
from nodes.target.node import commit_entry, take_guesses, take_holds
from nodes.target.state import TargetState
from nodes.worker.stream import StreamId, StreamSpec, spec_of
from policies.latency import CostTable, NodeCosts
from tests.nodes.pure_node import notices
from tests.nodes.reference import Reference, reference, toy_grammars
from tests.nodes.wild_policy import WildPolicy

# Guessing pays, so that the policy asks for it.
TARGET_COSTS = NodeCosts(CostTable((1, 32), (1e-3, 2e-3)), CostTable((32,), (2e-3,)))
DRAFT_COSTS = NodeCosts(CostTable((1, 32), (1e-5, 1e-4)), CostTable((32,), (1e-4,)))
_MAX_MOVES = 50_000
# Changes come now and then, so that most of a run lies between them.
_RARE_ONE_IN = 24
_MOVE_S = 1e-4
_PLANS_ONE_IN = 20
# Longer than from one plan to the next.
_PLAN_S = 1.1
_TAME = ("auto", "auto", "open", "grouped", "alternating", "single-stream")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCase:
    """One draft node."""

    agreement: float
    num_cells: int
    max_sequences: int
    max_batch_tokens: int
    starts_alive: bool
    has_grammars: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCase:
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...]
    ignore_eog: bool
    gamma: int | None
    is_cancelled: bool
    num_logprobs: int = -1
    scores_prompt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run; moves: the first choices of who goes next, later ones come from move_seed.
    num_upset: messages with guesses that are lost, repeated or overtaken. pass_moves: that others
    may make while the target is at a pass."""

    target: ToyConfig
    drafts: tuple[DraftCase, ...]
    streams: tuple[StreamCase, ...]
    num_churns: int
    num_upset: int
    has_wild_policy: bool
    has_lookup: bool
    prefix_cache_bytes: int = 0
    pass_moves: int = 0
    moves: bytes
    move_seed: int


def guessed_case(*, has_lookup: bool = False) -> Case:
    """Two streams, and a good draft node that has time to guess for them."""
    draft = DraftCase(
        agreement=0.9, num_cells=1000, max_sequences=5, max_batch_tokens=64, starts_alive=True
    )
    stream = StreamCase(
        prompt=(5, 6, 7),
        max_tokens=200,
        sampling=Sampling(),
        stops=(),
        ignore_eog=True,
        gamma=None,
        is_cancelled=False,
    )
    return Case(
        target=ToyConfig(num_cells=1000, max_sequences=5, max_batch_tokens=64),
        drafts=(draft,),
        streams=(stream, stream),
        num_churns=0,
        num_upset=0,
        has_wild_policy=False,
        has_lookup=has_lookup,
        pass_moves=30,
        moves=b"",
        move_seed=1,
    )


class Chooser:
    """Picks by the given bytes, and at random once they are used up."""

    def __init__(self, moves: bytes, seed: int) -> None:
        self._moves = iter(moves)
        self._random = random.Random(seed)

    def below(self, count: int) -> int:
        move = next(self._moves, None)
        return self._random.randrange(count) if move is None else move % count


@dataclass(slots=True)
class _Draft:
    case: DraftCase
    name: str
    drafter: DraftState | None = None
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[Any] = field(default_factory=deque)


def spec_of_case(stream_id: int, case: StreamCase) -> StreamSpec:
    return StreamSpec(
        stream_id=StreamId(stream_id),
        generation=1,
        # Two owners, who share nothing, and each something with itself.
        owner=f"owner-{stream_id % 2}",
        sampling=case.sampling,
        max_tokens=case.max_tokens,
        stops=case.stops,
        ignore_eog=case.ignore_eog,
        num_prompt_tokens=len(case.prompt),
        token_ids=case.prompt,
        num_logprobs=case.num_logprobs,
    )


def reference_of(case: StreamCase, target: ToyConfig) -> Reference:
    return reference(
        target,
        case.prompt,
        case.sampling,
        max_tokens=case.max_tokens,
        stops=case.stops,
        ignore_eog=case.ignore_eog,
        num_logprobs=case.num_logprobs,
        scores_prompt=case.scores_prompt,
    )


class PureMesh:
    """Runs a case to its end and checks law 1 on the way."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.choose = Chooser(case.moves, case.move_seed)
        self.now = 0.0
        self.scheduler = self._make_scheduler(case)
        self.model, tokenizer = self._target_engine()
        # As many as there are vocabularies in all tests: compiled once.
        self.grammars = toy_grammars(case.target.num_vocab)
        self.target = self._make_target(self.model, tokenizer)
        self._free_at = 0.0
        self.target_inbox: deque[Any] = deque()
        self.target_outbox: deque[Any] = deque()
        self.drafts = [_Draft(d, f"draft-{i}") for i, d in enumerate(case.drafts)]
        self.specs = {
            StreamId(i + 1): spec_of_case(i + 1, stream) for i, stream in enumerate(case.streams)
        }
        self.waiting = deque(self.specs)
        self.to_cancel = [
            StreamId(i + 1) for i, stream in enumerate(case.streams) if stream.is_cancelled
        ]
        self.references: dict[StreamId, Reference] = {}
        self.token_ids: dict[StreamId, list[int]] = {s: [] for s in self.specs}
        self.text: dict[StreamId, bytes] = dict.fromkeys(self.specs, b"")
        self.finished: dict[StreamId, str] = {}
        self.churns_left = case.num_churns
        self.upset_left = case.num_upset
        self.num_parked = 0
        for draft in self.drafts:
            if draft.case.starts_alive:
                self._join(draft)

    # -- who takes part ----------------------------------------------------------------------------

    def _make_scheduler(self, case: Case) -> Scheduler:
        mode = MODES[_TAME[self.choose.below(len(_TAME))]]
        if case.has_wild_policy:
            mode = Mode(WildPolicy(self.choose.below), (None, True)[self.choose.below(2)])
        return Scheduler(TARGET_COSTS, Drafts(), looks_up=case.has_lookup, mode=mode)

    def _make_target(self, model: Model, tokenizer: Tokenizer) -> TargetState:
        return TargetState(
            model,
            tokenizer,
            self.case.prefix_cache_bytes,
            self.grammars,
            midway_tokens=128,
            costs=TARGET_COSTS,
        )

    # -- engines -----------------------------------------------------------------------------------

    def _target_engine(self) -> tuple[Model, Tokenizer]:
        return ToyModel(self.case.target), ToyTokenizer(self.case.target.num_vocab)

    def _draft_engine(self, case: DraftCase) -> Model:
        return ToyModel(
            replace(
                self.case.target,
                agreement=case.agreement,
                num_cells=case.num_cells,
                max_sequences=case.max_sequences,
                max_batch_tokens=case.max_batch_tokens,
            )
        )

    def _reference_of(self, case: StreamCase) -> Reference:
        return reference_of(case, self.case.target)

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(_MAX_MOVES):
            self.now += _MOVE_S
            moves, rare = self._moves(), self._rare_moves()
            if rare and self.choose.below(_RARE_ONE_IN) == 0:
                rare[self.choose.below(len(rare))]()
            elif moves:
                moves[self.choose.below(len(moves))]()
            elif self._held_until() is not None:
                self._wait()
            else:
                # Only streams that wait for guesses may need time to pass: no message that a text
                # depends on is ever lost here.
                break
        else:
            raise AssertionError("the run does not end")
        self._check_end()

    def _moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        if self.target_inbox:
            moves.append(self._target_takes)
        if self.target_outbox:
            moves.append(self._scheduler_takes_from_target)
        next_step = self._next_step()
        if next_step is not None and next_step <= self.now:
            moves.append(self._target_steps)
        # Plans are made now and then.
        if len(self.scheduler.streams) and self.choose.below(_PLANS_ONE_IN) == 0:
            moves.append(self._plan)
        if self.waiting and self._has_room():
            moves.append(self._admit)
        for draft in self.drafts:
            if draft.inbox:
                moves.append(partial(self._draft_takes, draft))
            if draft.outbox:
                moves.append(partial(self._scheduler_takes_from_draft, draft))
            if draft.drafter is not None and draft.drafter.has_work():
                moves.append(partial(self._draft_steps, draft))
        return moves

    def _rare_moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        # Once all streams have ended nothing is to be seen of a change any more.
        if self.churns_left and len(self.finished) < len(self.specs):
            moves += [partial(self._churn, draft) for draft in self.drafts]
        if self.upset_left:
            for box in (self.target_inbox, *(draft.outbox for draft in self.drafts)):
                if any(isinstance(message, GuessNotice) for message in box):
                    moves.append(partial(self._upset, box))
        if self._held_until() is not None:
            moves.append(self._wait)
        moves += [
            partial(self._cancel, s)
            for s in self.to_cancel
            if self.scheduler.streams.get(s) is not None
        ]
        return moves

    def _plan(self) -> None:
        self.now += _PLAN_S
        self._carry_out(self.scheduler.tick(self.now))

    def _upset(self, box: deque[Any]) -> None:
        """Lose, repeat or overtake a message with guesses: a lost one must not matter."""
        self.upset_left -= 1
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

    def _held_until(self) -> float | None:
        """When something is due though nobody says anything: a link is free, the target has made
        a pass, or streams have waited for their guesses for long enough."""
        deadlines = [self.scheduler.next_deadline(), self._next_step()]
        return min((each for each in deadlines if each is not None), default=None)

    def _next_step(self) -> float | None:
        """When the target makes its next pass, if there is anything to be done."""
        if not self.target.has_work():
            return None
        return max(self._free_at, self.now + self.target.patience_s(self.now))

    def _wait(self) -> None:
        until = self._held_until()
        assert until is not None
        self.now = max(self.now, until)
        self._carry_out(self.scheduler.tick(self.now))

    # -- streams -----------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        # Of cells the target takes care itself: who does not fit yet waits there.
        return len(self.scheduler.streams) < self.case.target.max_sequences

    def _admit(self) -> None:
        stream_id = self.waiting.popleft()
        gamma = self.case.streams[stream_id - 1].gamma
        spec = replace(self.specs[stream_id], num_leased=self.choose.below(3) // 2)
        self._carry_out(self.scheduler.admit(spec, gamma))

    def _cancel(self, stream_id: StreamId) -> None:
        self.to_cancel.remove(stream_id)
        self._carry_out(self.scheduler.cancel(stream_id))

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    self.target_inbox.append(message)
                case ToDraft(node=node, message=message):
                    draft = next(d for d in self.drafts if d.name == node)
                    assert draft.drafter is not None, "a message to a draft that is gone"
                    draft.inbox.append(message)
                case Emit():
                    self._check_emit(instruction)
                case Finish(stream_id=stream_id, reason=reason):
                    assert stream_id not in self.finished, "ended twice"
                    self.finished[stream_id] = reason
                    self.scheduler.take_figures(stream_id)
                case Abort(error=error):
                    raise AssertionError(f"aborted: {error}")

    def _reference(self, stream_id: StreamId) -> Reference:
        known = self.references.get(stream_id)
        if known is None:
            stream = self.case.streams[stream_id - 1]
            known = self.references[stream_id] = self._reference_of(stream)
        return known

    def _check_emit(self, emit: Emit) -> None:
        assert emit.stream_id not in self.finished, "tokens after the end"
        known = self.token_ids[emit.stream_id]
        assert emit.position == len(known), "a token is missing or repeated"
        expected = self._reference(emit.stream_id)
        assert emit.scores == expected.scores[len(known) : len(known) + len(emit.scores)]
        assert emit.num_accepted_tokens <= min(len(emit.token_ids), emit.num_draft_tokens)
        known += emit.token_ids
        self.text[emit.stream_id] += emit.text
        assert tuple(known) == expected.token_ids[: len(known)]
        assert expected.text.startswith(self.text[emit.stream_id])

    def _check_end(self) -> None:
        stuck = [s for s in self.specs if s not in self.finished]
        assert not stuck, f"streams {stuck} never end"
        for stream_id, reason in self.finished.items():
            if reason != "cancelled":
                expected = self._reference(stream_id)
                assert tuple(self.token_ids[stream_id]) == expected.token_ids
                assert self.text[stream_id] == expected.text
                assert reason == expected.finish_reason
        assert len(self.scheduler.streams) == self.target.num_streams == 0
        assert self.model.free_cells() == self.case.target.num_cells
        for draft in self.drafts:
            assert draft.drafter is None or draft.drafter.num_streams == 0

    # -- the target --------------------------------------------------------------------------------

    def _target_takes(self) -> None:
        message = self.target_inbox.popleft()
        match message:
            case OpenStreamRequest():
                self._target_says(self.target.open(spec_of(message)))
            case CloseStreamNotice(stream_id=s, generation=g):
                self.target.close(StreamId(s), g)
            case LeaseRequest(entries=leases):
                for e in leases:
                    told = e.generation, e.prefix_len, e.num_tokens
                    self.target.lease(StreamId(e.stream_id), *told)
            case GuessNotice():
                take_guesses(self.target, message)
            case HoldNotice():
                take_holds(self.target, message)

    def _target_steps(self) -> None:
        self._target_says(self.target.step())
        self._free_at = self.now + self.case.pass_moves * _MOVE_S
        self.target.passed(1e-3, self._free_at)

    def _target_says(self, events: Sequence[object]) -> None:
        commits = [event for event in events if isinstance(event, Committed)]
        self.target_outbox.extend(notices(events))
        if commits:
            token_ids = tuple(t for commit in commits for t in commit.token_ids)
            entries = tuple(map(commit_entry, commits))
            self.target_outbox.append(CommitReply(0.0, entries, token_ids))

    def _scheduler_takes_from_target(self) -> None:
        message = self.target_outbox.popleft()
        match message:
            case CommitReply():
                out = self.scheduler.committed(message, self.now)
            case StreamReadyNotice(stream_id=s, generation=g, num_read=num_read):
                out = self.scheduler.target_ready(
                    StreamId(s), g, num_read, has_begun=message.has_begun
                )
            case StreamParkedNotice(stream_id=s, generation=g):
                self.num_parked += 1
                out = self.scheduler.target_parked(StreamId(s), g)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                out = self.scheduler.target_failed(StreamId(s), g, reason)
        self._carry_out(out)

    # -- the drafts --------------------------------------------------------------------------------

    def _join(self, draft: _Draft) -> None:
        draft.drafter = DraftState(
            self._draft_engine(draft.case),
            grammars=self.grammars if draft.case.has_grammars else None,
        )
        self._carry_out(self.scheduler.draft_joined(draft.name, DRAFT_COSTS))

    def _churn(self, draft: _Draft) -> None:
        """A dead draft joins; a living one dies, or only its link breaks and comes back."""
        self.churns_left -= 1
        drafter = draft.drafter
        if drafter is None:
            self._join(draft)
            return
        draft.drafter = None
        draft.inbox.clear()
        draft.outbox.clear()
        self._carry_out(self.scheduler.draft_lost(draft.name))
        if self.choose.below(2):
            drafter.forget_all()
            draft.drafter = drafter
            self._carry_out(self.scheduler.draft_joined(draft.name, DRAFT_COSTS))

    def _draft_takes(self, draft: _Draft) -> None:
        assert draft.drafter is not None
        message = draft.inbox.popleft()
        match message:
            case OpenStreamRequest():
                self._draft_says(draft, draft.drafter.open(spec_of(message)))
            case CloseStreamNotice(stream_id=s, generation=g):
                draft.drafter.close(StreamId(s), g)
            case CommitNotice():
                self._draft_says(draft, take_commits(draft.drafter, message))

    def _draft_steps(self, draft: _Draft) -> None:
        assert draft.drafter is not None
        self._draft_says(draft, draft.drafter.step())

    def _draft_says(self, draft: _Draft, events: Sequence[object]) -> None:
        draft.outbox.extend(notices(events))
        draft.outbox.extend(guess_notice(e.parts) for e in events if isinstance(e, Guessed))

    def _scheduler_takes_from_draft(self, draft: _Draft) -> None:
        message = draft.outbox.popleft()
        match message:
            case GuessNotice():
                out = self.scheduler.guessed(draft.name, list(parts_of(message)), self.now)
            case StreamReadyNotice(stream_id=s, generation=g):
                self.scheduler.draft_ready(draft.name, StreamId(s), g)
                return
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                out = self.scheduler.draft_failed(draft.name, StreamId(s), g, reason)
        self._carry_out(out)
