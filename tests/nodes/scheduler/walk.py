"""A random walk of a scheduler: a target, draft nodes and clients that do what they like.

Nothing is computed. Messages arrive in order on each way, and in any order between ways; the
invariants of the state are checked after every event, and everything told to the scheduler is kept.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LeaseRequest,
    OpenStreamRequest,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    VerifyRequest,
)
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget
from nodes.scheduler.stream import Drafting, Leased, Opening, Verifying
from nodes.stream import StreamId
from policies.baselines import POLICIES
from policies.plan import Policy
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.wild_policy import WildPolicy

_NUM_DRAFTS = 3
_NAMES = ("wild", "joint", "alternating", "single-stream", "no-overlap")
_PASS_S = (0.0, 1e-3, 4e-3)
_STEPS_S = (0.0, 1e-4, 1e-3)
# How often something happens that need not.
_TROUBLE = 0.12


@dataclass(slots=True)
class _Held:
    """A stream on the target."""

    generation: int
    length: int
    end: int
    lease: int = 0
    guesses: int = -1
    is_open: bool = False

    def wants_pass(self) -> bool:
        return self.is_open and (self.guesses >= 0 or self.lease > self.length)


class Walk:
    """Runs one scheduler for some events, then lets everything come to its end."""

    def __init__(self, seed: int, num_streams: int, num_events: int) -> None:
        self._random = random.Random(seed)
        self._events_left = num_events
        self.now = 0.0
        self._policy = self._random.choice(_NAMES)
        self.policy_seed = seed
        self.scheduler = SchedulerState(self.make_policy(), TARGET_COSTS)
        self.told: list[tuple[str, tuple[Any, ...], list[Instruction]]] = []
        self._waiting = [StreamId(number) for number in range(1, num_streams + 1)]
        self._to_target: deque[Any] = deque()
        self._from_target: deque[Any] = deque()
        self._held: dict[int, _Held] = {}
        self._to_draft: dict[str, deque[Any]] = {}
        self._from_draft: dict[str, deque[Any]] = {}
        self.lengths: Counter[StreamId] = Counter()
        self.ended: dict[StreamId, str] = {}
        self.did: Counter[str] = Counter()
        for _ in range(self._random.randrange(3)):
            self._churn()

    def make_policy(self) -> Policy:
        """The walk's policy, from its beginning."""
        if self._policy != "wild":
            return POLICIES[self._policy]
        return WildPolicy(random.Random(self.policy_seed).randrange)

    def run(self) -> None:
        while self._events_left and len(self.ended) < len(self.lengths) + len(self._waiting):
            self._events_left -= 1
            self.now += self._random.choice(_STEPS_S)
            moves = self._moves()
            if not moves or self._random.random() < _TROUBLE:
                moves = self._troubles()
            self._random.choice(moves)()
        self._waiting.clear()
        # No more trouble: all that was sent arrives, deadlines are kept.
        for _ in range(100_000):
            moves = self._moves()
            if moves:
                self._random.choice(moves)()
            elif (deadline := self.scheduler.next_deadline()) is not None:
                self.now = deadline
            else:
                break
        else:
            raise AssertionError("the walk does not end")

    def _tell(self, name: str, *arguments: Any) -> None:
        """Call the scheduler, carry out what it says, check it."""
        out = getattr(self.scheduler, name)(*arguments)
        self.told.append((name, arguments, out))
        self.did[name] += 1
        for instruction in out:
            self._carry_out(instruction)
        check_invariants(self.scheduler)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case ToTarget(message=message):
                self._to_target.append(message)
            case ToDraft(node=node, message=message):
                self._to_draft[node].append(message)
            case Emit(stream_id=stream_id, position=position, token_ids=token_ids):
                assert stream_id not in self.ended
                assert position == self.lengths[stream_id]
                self.lengths[stream_id] += len(token_ids)
            case Finish(stream_id=stream_id, reason=reason):
                assert stream_id not in self.ended
                self.ended[stream_id] = reason
                self.scheduler.take_figures(stream_id)
            case Abort(stream_id=stream_id, error=error):
                assert error == "full"
                self.ended[stream_id] = error
                self.scheduler.take_figures(stream_id)

    # -- who may move --------------------------------------------------------------------------

    def _moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        if self._waiting:
            moves.append(self._admit)
        deadline = self.scheduler.next_deadline()
        if deadline is not None and deadline <= self.now:
            moves.append(self._tick)
        if self._to_target:
            moves.append(self._target_takes)
        if any(held.wants_pass() for held in self._held.values()):
            moves.append(self._target_passes)
        moves += [partial(self._target_opens, s) for s, h in self._held.items() if not h.is_open]
        if self._from_target:
            moves.append(self._target_says)
        moves += [partial(self._draft_takes, name) for name, q in self._to_draft.items() if q]
        moves += [partial(self._draft_says, name) for name, q in self._from_draft.items() if q]
        return moves

    def _troubles(self) -> list[Callable[[], None]]:
        """What need not happen."""
        troubles = [self._pass_time, self._pass_time, self._tick, self._churn, self._be_late]
        troubles += [partial(self._park, h, s) for s, h in self._held.items() if h.is_open]
        return [*troubles, self._cancel] if self.lengths else troubles

    def _admit(self) -> None:
        stream_id = self._waiting.pop()
        self.lengths[stream_id] = 0
        spec = make_spec(stream_id, max_tokens=self._random.randint(1, 200))
        self._tell("admit", spec, self._random.choice((None, None, None, 0, 3, 16)))

    def _cancel(self) -> None:
        # Mostly of one that is there; who has ended may be cancelled as well.
        if self._random.random() < 0.3:
            self._tell("cancel", self._random.choice(list(self.lengths)), self.now)

    def _pass_time(self) -> None:
        self.now += self._random.choice((0.01, 0.2))

    def _tick(self) -> None:
        self._tell("tick", self.now)

    def _be_late(self) -> None:
        deadline = self.scheduler.next_deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self._tell("tick", self.now)

    # -- the target ----------------------------------------------------------------------------

    def _target_takes(self) -> None:
        message = self._to_target.popleft()
        match message:
            case OpenStreamRequest(stream_id=stream_id, generation=generation):
                if self._random.random() < 0.03:
                    refusal = StreamFailedNotice(stream_id, generation, "full")
                    self._from_target.append(refusal)
                    return
                length = len(message.token_ids)
                end = message.num_prompt_tokens + message.max_tokens
                self._held[stream_id] = _Held(generation, length, end)
            case CloseStreamNotice(stream_id=stream_id):
                self._held.pop(stream_id, None)
            case LeaseRequest(entries=leases):
                for lease in leases:
                    held = self._held.get(lease.stream_id)
                    if held is not None and held.generation == lease.generation:
                        assert held.is_open
                        assert lease.prefix_len <= held.length
                        held.lease = max(held.lease, lease.prefix_len + lease.num_tokens)
            case VerifyRequest(entries=entries):
                for entry in entries:
                    held = self._held.get(entry.stream_id)
                    if held is None or held.generation != entry.generation:
                        continue
                    assert held.is_open
                    if held.length == entry.prefix_len:
                        held.guesses = entry.num_draft_tokens

    def _park(self, held: _Held, stream_id: int) -> None:
        self._from_target.append(StreamParkedNotice(stream_id, held.generation))
        held.generation += 1
        held.lease, held.guesses, held.is_open = 0, -1, False

    def _target_opens(self, stream_id: int) -> None:
        held = self._held[stream_id]
        held.is_open = True
        self._from_target.append(StreamReadyNotice(stream_id, held.generation))

    def _target_passes(self) -> None:
        entries: list[CommitEntry] = []
        for stream_id, held in list(self._held.items()):
            # A pass may be too small for all.
            if not held.wants_pass() or (entries and self._random.random() < 0.2):
                continue
            num_guesses = max(0, min(held.guesses, held.end - held.length - 1))
            accepted = self._random.randint(0, num_guesses)
            before = held.length
            held.length += accepted + 1
            held.guesses = -1
            reason = "length" if held.length == held.end else ""
            if reason:
                del self._held[stream_id]
            counts = (accepted + 1, num_guesses, accepted)
            entries.append(CommitEntry(stream_id, held.generation, before, *counts, reason, b""))
        total = sum(entry.num_tokens for entry in entries)
        pass_s = self._random.choice(_PASS_S)
        self._from_target.append(CommitReply(pass_s, tuple(entries), (9,) * total))

    def _target_says(self) -> None:
        message = self._from_target.popleft()
        match message:
            case CommitReply():
                self._tell("committed", message, self.now)
            case StreamReadyNotice(stream_id=stream_id, generation=generation):
                self._tell("target_ready", StreamId(stream_id), generation, self.now)
            case StreamParkedNotice(stream_id=stream_id, generation=generation):
                self._tell("target_parked", StreamId(stream_id), generation, self.now)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                self._tell("target_failed", StreamId(s), g, reason, self.now)

    # -- draft nodes ---------------------------------------------------------------------------

    def _churn(self) -> None:
        name = f"draft-{self._random.randrange(_NUM_DRAFTS)}"
        if name not in self._to_draft:
            self._to_draft[name], self._from_draft[name] = deque(), deque()
            self._tell("draft_joined", name, DRAFT_COSTS)
            return
        del self._to_draft[name], self._from_draft[name]
        self._tell("draft_lost", name, self.now)

    def _draft_takes(self, name: str) -> None:
        message = self._to_draft[name].popleft()
        answers = self._from_draft[name]
        match message:
            case OpenStreamRequest(stream_id=stream_id, generation=generation):
                if self._random.random() < 0.1:
                    answers.append(StreamFailedNotice(stream_id, generation, f"{name} is full"))
                else:
                    answers.append(StreamReadyNotice(stream_id, generation))
            case DraftRequest(round=round_id):
                entries = []
                for entry in message.entries:
                    length = entry.prefix_len + entry.num_new_tokens
                    if self._random.random() < 0.03:
                        reason = "out of step"
                        failed = StreamFailedNotice(entry.stream_id, entry.generation, reason)
                        answers.append(failed)
                        continue
                    count = self._random.randint(0, entry.gamma)
                    entries.append(GuessEntry(entry.stream_id, entry.generation, length, count))
                total = sum(entry.num_draft_tokens for entry in entries)
                answers.append(DraftReply(round_id, tuple(entries), (9,) * total))

    def _draft_says(self, name: str) -> None:
        message = self._from_draft[name].popleft()
        match message:
            case DraftReply():
                self._tell("drafted", name, message, self.now)
            case StreamReadyNotice(stream_id=s, generation=g):
                self._tell("draft_ready", name, StreamId(s), g, self.now)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                self._tell("draft_failed", name, StreamId(s), g, reason, self.now)


def check_invariants(scheduler: SchedulerState) -> None:
    """What holds of a scheduler after every event."""
    streams, rounds, nodes = scheduler._streams, scheduler._rounds, scheduler._drafts
    for node in nodes:
        placed = sum(s.draft is not None and s.draft.node == node.name for s in streams.values())
        assert node.num_streams == placed
        waiting = [r.shares[node.name] for r in rounds.values() if node.name in r.shares]
        assert node.num_waiting == len(waiting)
        assert all(share.node is node for share in waiting)
    assert all(s.draft is None or s.draft.node in nodes for s in streams.values())
    members = [stream_id for current in rounds.values() for stream_id in current.stream_ids]
    assert len(members) == len(set(members)), "a stream is in two rounds"
    for current in rounds.values():
        assert current.stream_ids
        assert current.is_verifying != bool(current.shares)
        phase = Verifying if current.is_verifying else Drafting
        assert all(streams[s].phase == phase(current.round_id) for s in current.stream_ids)
    for stream_id, stream in streams.items():
        assert stream.is_away == (stream_id in members)
        if isinstance(stream.phase, Leased):
            assert stream.phase.end > len(stream.token_ids), "a lease has run out"
    planned = [int(s) for batch in scheduler._cycle.batches for s in batch.gammas]
    planned += scheduler._cycle.plain
    assert len(planned) == len(set(planned)), "a stream is planned twice"
    active = {int(s) for s, stream in streams.items() if not isinstance(stream.phase, Opening)}
    assert active <= set(planned), "the plan forgot a stream"
    flying = [b.round_id for b in scheduler._cycle.batches if b.round_id in rounds]
    assert len(flying) == len(set(flying)), "two batches claim a round"
    assert scheduler.next_deadline() is not None or not any(r.shares for r in rounds.values())


def replayed(walk: Walk, told: Sequence[tuple[str, tuple[Any, ...], list[Instruction]]]) -> bool:
    """Whether a scheduler that is told the same says the same."""
    scheduler = SchedulerState(walk.make_policy(), TARGET_COSTS)
    return all(getattr(scheduler, name)(*arguments) == out for name, arguments, out in told)
