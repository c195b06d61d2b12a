"""The round scheduler of one target: events and `now` in, instructions out.

Who is drafted and verified when. It knows messages, not sockets; the simulator and the live
coordinator run this same code. The journal of a stream (its tokens) is here: what has been
committed is what this state holds, whatever a node says later.

The plan in force cuts the guessing streams into batches that circulate, each with at most one
round of its own in flight. A batch starts when all its members are back; where the target would
idle, those that are back go and the rest joins the next round. All other streams are leased to
the target, which decodes them plainly in every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from mesh.grants import Air
from nodes.messages import (
    MAX_STREAMS_PER_MESSAGE,
    CommitReply,
    DraftReply,
)
from nodes.scheduler.commits import Commits
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.drafting import probation
from nodes.scheduler.drafting.draft_side import DraftSide
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.drafting.load import DraftLoad
from nodes.scheduler.drafting.lookup import Lookup
from nodes.scheduler.drafting.pace import Pace
from nodes.scheduler.drafting.tolls import tolls_of
from nodes.scheduler.forecast import Forecast
from nodes.scheduler.healing import Healing
from nodes.scheduler.instructions import (
    Instruction,
)
from nodes.scheduler.journal import Journal
from nodes.scheduler.learning import Learning
from nodes.scheduler.leases import is_weighed
from nodes.scheduler.membership import Membership
from nodes.scheduler.observe import observe
from nodes.scheduler.planning import Made, Planning
from nodes.scheduler.rounds import RoundIds
from nodes.scheduler.stream import (
    Figures,
    Leased,
    Opening,
    Stream,
    Verifying,
    as_round_stream,
)
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.target_side import TargetSide
from nodes.scheduler.target_way import TargetWay
from nodes.scheduler.watching.counts import Counts
from nodes.scheduler.watching.recorder import Recorder
from nodes.scheduler.watching.report import Report
from nodes.scheduler.watching.stage_errors import StageErrors
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId, StreamSpec
from nodes.target.stream import cells_soon
from policies.acceptance import AcceptanceEstimate
from policies.confidence import Spread
from policies.latency import NodeCosts
from policies.plan import Link, Plan, Policy


class SchedulerState:
    """All streams of one target.

    policy: plans the cycle. acceptance: estimate that a stream begins with, given its draft node's
    prior; for simulations in which acceptance is known. lookup: guess from the streams' own texts
    too, where that is better than a draft node or there is none. trials: try a draft node's guesses
    beside plain passes before they are verified in rounds. air: turns on shared media, of all
    targets. token_bits: what a token id takes on a link. round_ids, draft_load: what schedulers
    share whose targets share draft nodes. name: of the target. counts: of what it has done, if it
    was here before. num_cells: of the target, 0 if not known. plans_later: told where a plan is
    due, so that it is made by plan_anew() some calls later, when what they gave has been sent;
    without it each call plans.
    """

    def __init__(
        self,
        policy: Policy,
        target_costs: NodeCosts | None,
        acceptance: Callable[[StreamId], AcceptanceEstimate] | None = None,
        *,
        lookup: bool = False,
        trials: bool = False,
        air: Air | None = None,
        token_bits: int = 32,
        round_ids: RoundIds | None = None,
        draft_load: DraftLoad | None = None,
        name: str = "",
        counts: Counts | None = None,
        num_cells: int = 0,
        plans_later: Callable[[], None] | None = None,
    ) -> None:
        self._plans_later = plans_later
        self._cycle = CycleState(policy)
        self._target = TargetCosts(target_costs) if target_costs is not None else None
        self._streams: dict[StreamId, Stream] = {}
        # Where acceptance is given, nothing that is learnt takes its place.
        self._lookup = Lookup() if lookup else None
        air = air or Air()
        way = TargetWay(air, token_bits)
        self._drafts = DraftPool(
            gives_priors=acceptance is None, lookup=self._lookup, load=draft_load, way=way
        )
        self._token_bits = token_bits
        self._watch = Watch(lambda *size: self._learning.predicted_pass_s(*size), name, counts)
        self._dispatcher = Dispatcher(
            self._streams,
            self._drafts,
            self._cycle,
            air,
            self._watch,
            round_ids or RoundIds(),
            lambda num_tokens: self._learning.prompts_s(num_tokens),
        )
        self.forecast = Forecast(self._streams, self._drafts, self._cycle, self._target, token_bits)
        self._rounds = self._dispatcher.rounds
        self._learning = Learning(
            self._streams, self._drafts, self._cycle, self._target, self._rounds, self._watch
        )
        self._draft_side = DraftSide(
            self._streams,
            self._drafts,
            self._cycle,
            self._dispatcher,
            self._target,
            self._learning,
            self._watch,
            token_bits,
        )
        self._membership = Membership(
            self._streams,
            self._drafts,
            self._cycle,
            self._dispatcher,
            self._draft_side,
            self._lookup,
            acceptance,
            has_trials=trials,
        )
        self._target_side = TargetSide(
            self._streams,
            self._cycle,
            self._dispatcher,
            self._membership,
            self._target,
            self._watch,
        )
        self._healing = Healing(
            self._streams,
            self._drafts,
            self._cycle,
            self._target,
            self._dispatcher,
            self._watch,
            num_cells,
        )
        self._commits = Commits(
            self._streams,
            self._cycle,
            self._dispatcher,
            self._draft_side,
            self._learning,
            self._healing,
            self._lookup,
            self._watch,
            self._membership.remove,
        )
        self.report = Report(self._streams, self._drafts, self._cycle, self._target, self._watch)

    @property
    def num_stale(self) -> int:
        """Messages that spoke of what is past."""
        sides = (self._target_side, self._draft_side, self._commits)
        return sum(side.num_stale for side in sides)

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    @property
    def stream_ids(self) -> list[StreamId]:
        return list(self._streams)

    @property
    def cells(self) -> int:
        """Cells that admission counts for all streams, those that are parked included."""
        streams = self._streams.values()
        return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in streams)

    @property
    def awaits_target(self) -> bool:
        """Whether the target has something to do."""
        streams = self._streams.values()
        return any(isinstance(s.phase, Opening | Leased | Verifying) for s in streams)

    def streams(self) -> Iterable[Stream]:
        return self._streams.values()

    def stream(self, stream_id: StreamId) -> Stream | None:
        return self._streams.get(stream_id)

    @property
    def plan_in_force(self) -> Plan:
        return self._cycle.plan

    @property
    def stage_errors(self) -> StageErrors:
        """How far predicted times have been from observed ones."""
        return self._watch.errors

    def record(self, recorder: Recorder | None, now: float) -> None:
        """Tell a recorder of plans and rounds from now on; None: nobody any more."""
        self._watch.record(recorder, now)

    # -- streams come and go ---------------------------------------------------------------

    def admit(
        self, spec: StreamSpec, fixed_gamma: int | None, weight: float = 1.0
    ) -> list[Instruction]:
        """Place a stream on the target and, if there is one, on the draft node that suits best."""
        return self._membership.admit(spec, fixed_gamma, weight)

    def adopt(self, journal: Journal) -> list[Instruction]:
        """Go on with a stream that another target's scheduler released."""
        stream = as_round_stream(journal)
        return self._membership.adopt(stream)

    def release(self, stream_id: StreamId, now: float) -> tuple[Stream, list[Instruction]]:
        """Let a stream go to another target, with its journal; what this one still says of it is
        stale. Raises KeyError."""
        stream = self._streams[stream_id]
        return stream, [*self._membership.release(stream, now), *self.plan(now)]

    def release_all(self, now: float) -> tuple[list[Stream], list[Instruction]]:
        """The target is gone: every stream, and what draft nodes are to be told."""
        return self._membership.release_all(now)

    def cancel(self, stream_id: StreamId, now: float) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        # Others may have waited for a round that held only this stream.
        return [*self._membership.cancel(stream, now), *self.plan(now)]

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        """What an ended stream did and why it was last decoded plainly; asked for once."""
        return self._membership.ended.pop(stream_id, (Figures(), ""))

    # -- draft nodes -------------------------------------------------------------------------

    def draft_joined(
        self,
        node: str,
        costs: NodeCosts,
        link: Link | None = None,
        spread: Spread | None = None,
        pace: Pace | None = None,
        model_hash: str = "",
        max_streams: int = MAX_STREAMS_PER_MESSAGE,
    ) -> list[Instruction]:
        """spread: how sure its draft model was where it was measured, if it was. pace: what the
        schedulers of other targets know of it. model_hash: of its draft model, if that is known.
        max_streams: it can hold, of all targets."""
        known = spread, pace, model_hash, max_streams
        return self._draft_side.joined(node, costs, link, *known)

    def draft_link(self, node: str, link: Link) -> None:
        """What is known by now of the way to a draft node."""
        self._draft_side.link(node, link)

    def draft_lost(self, node: str, now: float, *, has_died: bool = True) -> list[Instruction]:
        """has_died: it did not leave of its own accord, or by order."""
        lost = self._draft_side.lost(node, now, has_died=has_died)
        return [] if lost is None else [*lost, *self.plan(now)]

    def draft_ready(
        self, node: str, stream_id: StreamId, generation: int, now: float
    ) -> list[Instruction]:
        return self.plan(now) if self._draft_side.ready(node, stream_id, generation) else []

    def draft_failed(
        self,
        node: str,
        stream_id: StreamId,
        generation: int,
        reason: str,
        now: float,
        code: str = "unavailable",
    ) -> list[Instruction]:
        """code: as in StreamFailedNotice; what is wrong with a request stays wrong."""
        for_good = code == "bad_request"
        placed = self._draft_side.failed(node, stream_id, generation, reason, for_good=for_good)
        return [] if placed is None else [*placed, *self.plan(now)]

    def target_link(self, link: Link) -> None:
        """What is known by now of the way to the target."""
        self._dispatcher.leases.link = link
        self._drafts.target_is_at(link)

    def text_told(self, num_tokens: int, now: float) -> None:
        """A text of so many tokens is on its way to the target."""
        self._drafts.way.text_told(num_tokens, now)

    # -- the target ----------------------------------------------------------------------------

    def target_ready(
        self,
        stream_id: StreamId,
        generation: int,
        now: float,
        num_read: int | None = None,
        *,
        has_begun: bool = False,
    ) -> list[Instruction]:
        """num_read: tokens the target ran for it; None for all of its text. has_begun: its first
        token is on the way."""
        side = self._target_side
        told = side.ready(stream_id, generation, now, num_read, has_begun=has_begun)
        return [] if told is None else self.plan(now)

    def target_parked(self, stream_id: StreamId, generation: int, now: float) -> list[Instruction]:
        """The target had no cells left for a stream. It says ready when it goes on."""
        told = self._target_side.parked(stream_id, generation, now)
        return [] if told is None else [*told, *self.plan(now)]

    def target_failed(
        self,
        stream_id: StreamId,
        generation: int,
        reason: str,
        now: float,
        code: str = "unavailable",
    ) -> list[Instruction]:
        """code: whose fault it is, as in RequestFailedNotice."""
        told = self._target_side.failed(stream_id, generation, reason, now, code)
        # Others may have waited for a round that held only this stream.
        return [] if told is None else [*told, *self.plan(now)]

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        """Take what one target pass committed; what does not follow the journal is dropped."""
        out: list[Instruction] = []
        self._dispatcher.leases.pass_done(reply.pass_s)
        predicted_s = self._learning.pass_done(reply, now)
        self._watch.committed(reply, predicted_s, self._streams, now)
        offset = 0
        for entry in reply.entries:
            token_ids = reply.token_ids[offset : offset + entry.num_tokens]
            offset += entry.num_tokens
            out += self._commits.commit_one(entry, token_ids, now)
        told = [s for e in reply.entries if (s := self._streams.get(StreamId(e.stream_id)))]
        alphas = ((s.spec.stream_id, s.acceptance.alpha) for s in told)
        self._cycle.committed(alphas)
        # Rounds of lookup are made where they pay, whatever the plan promises of them.
        if self._lookup is None or not any(map(is_weighed, self._streams.values())):
            num_opening = sum(isinstance(s.phase, Opening) for s in self._streams.values())
            waiting = self._dispatcher.num_waiting(), num_opening
            self._cycle.yielded(len(reply.token_ids), now, *waiting)
        out += self._draft_side.reconsider(told)
        return out + self.plan(now)

    # -- rounds --------------------------------------------------------------------------------

    def plan(self, now: float) -> list[Instruction]:
        """Start what may start, then plan anew, while the target is at work."""
        out = self._dispatcher.start(now)
        if self._plans_later is None:
            return out + self.plan_anew(now)
        if self._cycle.is_due:
            self._plans_later()
        return out

    def plan_anew(self, now: float) -> list[Instruction]:
        """Plan if that is due, and start what the new plan lets start."""
        planning = self.begin_plan(now)
        return [] if planning is None else self.take_plan(planning, planning.make(), now)

    def begin_plan(self, now: float) -> Planning | None:
        """What a plan that is due is to be made of; anybody may make it, and take_plan() has it."""
        if not self._cycle.is_due:
            return None
        streams = self._streams.values()
        seen = observe(streams, self._drafts, self._target, now)
        seen = replace(
            seen,
            slowness=self._cycle.slowness,
            ahead_overrun=self._cycle.ahead_overrun(now),
            token_bits=self._token_bits,
        )
        if self._lookup is not None:
            self._lookup.tolls = tolls_of(seen)
        hope = probation.hope_for(streams, self._drafts, seen)
        return self._cycle.begin(seen, now, hope)

    def take_plan(self, planning: Planning, made: Made, now: float) -> list[Instruction]:
        """Put a plan in force, whatever has come in since it was begun, and start what may start.

        Streams that have come since are in the plan after it, which is due.
        """
        if made.is_hopeful and planning.hope is not None:
            probation.end(self._streams.values(), planning.hope)
        self._cycle.take(made)
        self._watch.planned(made.observation, made.plan, now)
        return self._dispatcher.start(now)

    def drafted(self, node: str, reply: DraftReply, now: float) -> list[Instruction]:
        current = self._rounds.get(reply.round)
        if current is not None and node in current.shares:
            return self._draft_side.drafted(current, node, reply, now)
        return self.plan(now) if self._draft_side.other_answer(node, reply, now) else []

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        return self._dispatcher.next_deadline()

    def tick(self, now: float) -> list[Instruction]:
        """Leave late draft nodes behind, start batches that were held back for plain streams, end
        waits for what was lost."""
        out: list[Instruction] = []
        for current in list(self._rounds.values()):
            if current.shares and now >= current.deadline:
                out += self._draft_side.left_behind(current)
                self._watch.given_up(current, current.shares, now)
                current.give_up(now)
                out += self._dispatcher.verify_if_complete(current, now)
        silent, unread = self._healing.overdue(now)
        for stream in silent:
            error = "the target did not go on with it, though it was asked to again and again"
            out += self._commits.reopen(stream, error, now)
        for stream in unread:
            # One that has just been ended may be in here, too.
            if stream.draft is not None:
                out += self._draft_side.given_up(stream)
        due = [b for b in self._cycle.batches if b.not_before and now >= b.not_before]
        for batch in due:
            batch.not_before = 0.0
        return [*out, *self.plan(now)] if due or out else out
