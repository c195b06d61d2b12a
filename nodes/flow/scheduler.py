"""The scheduler of one target where guesses flow, as the coordinator uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from nodes.flow import following
from nodes.flow.drafts import DraftNode, Drafts
from nodes.flow.forecast import Forecast
from nodes.flow.planning import Choice, Made, Planning, Wait, waits_of
from nodes.flow.report import Report, plain_label
from nodes.flow.state import FlowState
from nodes.flow.stream import Running, Stream
from nodes.flow.telling import next_deadline
from nodes.messages import MAX_STREAMS_PER_MESSAGE, ChainPart, CommitReply
from nodes.scheduler.drafting.pace import Pace
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.journal import Journal
from nodes.scheduler.observe import pass_size
from nodes.scheduler.stream import Figures, Opening
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.watching.counts import Counts
from nodes.scheduler.watching.recorder import Recorder
from nodes.scheduler.watching.stage_errors import StageErrors
from nodes.stream import PROMPT_PIECE_TOKENS, StreamId, StreamSpec
from policies.confidence import Spread
from policies.latency import NodeCosts
from policies.plan import (
    DraftView,
    Link,
    Observation,
    Plan,
    Policy,
    StreamView,
)
from policies.priced import price_of

_PLAN: Final = Plan(policy="flow")
_PLAN_EVERY_S: Final = 1.0
# What other groups must promise beyond those in force.
_REGROUPING: Final = 0.04


class FlowScheduler:
    """Holds a FlowState, and what is counted and learnt beside it. drafts: of all targets."""

    def __init__(
        self,
        target_costs: NodeCosts | None,
        drafts: Drafts,
        *,
        token_bits: int = 32,
        looks_up: bool = False,
        name: str = "",
        counts: Counts | None = None,
        policy: Policy | None = None,
        plans_later: Callable[[], None] | None = None,
        is_grouped: bool | None = None,
    ) -> None:
        """policy: makes plans in which streams wait for each other; without it none is made.
        plans_later: told where a plan is due, so that it is made some calls later; without it calls
        make it. is_grouped: True or False where one way is in force whatever is predicted.
        """
        self._policy, self._plans_later = policy, plans_later
        is_forced = is_grouped is not None
        self._choice = Choice(is_grouped=bool(is_grouped), is_forced=is_forced)
        self._plan_at = 0.0
        self._plan = _PLAN
        self.state = FlowState(drafts, token_bits=token_bits, looks_up=looks_up)
        self._name = name
        self._counts = counts if counts is not None else Counts()
        self._target = TargetCosts(target_costs) if target_costs is not None else None
        self._recorder: Recorder | None = None
        self.stage_errors = StageErrors()
        self.report = Report(self)
        self.forecast = Forecast(self)

    # -- what the coordinator asks ---------------------------------------------------------------

    @property
    def num_stale(self) -> int:
        return self.state.num_stale

    @property
    def num_streams(self) -> int:
        return len(self.state.streams)

    @property
    def stream_ids(self) -> list[StreamId]:
        return list(self.state.streams)

    @property
    def cells(self) -> int:
        return self.state.cells

    @property
    def awaits_target(self) -> bool:
        return bool(self.state.streams)

    def streams(self) -> Iterable[Stream]:
        return self.state.streams.values()

    def stream(self, stream_id: StreamId) -> Stream | None:
        return self.state.streams.get(stream_id)

    @property
    def plan_in_force(self) -> Plan:
        return self._plan

    def record(self, recorder: Recorder | None, now: float) -> None:
        self._recorder = recorder

    # -- streams -----------------------------------------------------------------------------------

    def admit(
        self, spec: StreamSpec, fixed_gamma: int | None, weight: float = 1.0
    ) -> list[Instruction]:
        return self.state.admit(spec, fixed_gamma, weight)

    def adopt(self, journal: Journal) -> list[Instruction]:
        """Go on with a stream that another target had, of either kind."""
        if isinstance(journal, Stream):
            return self.state.adopt(journal)
        known = journal.spec, journal.token_ids, journal.fixed_gamma, journal.weight
        return self.state.adopt(Stream(*known, figures=journal.figures))

    def release(self, stream_id: StreamId, now: float) -> tuple[Stream, list[Instruction]]:
        return self.state.release(stream_id)

    def release_all(self, now: float) -> tuple[list[Stream], list[Instruction]]:
        return self.state.release_all()

    def cancel(self, stream_id: StreamId, now: float) -> list[Instruction]:
        return self.state.cancel(stream_id)

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        return self.state.take_figures(stream_id)

    # -- draft nodes -------------------------------------------------------------------------------

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
        record = DraftNode(node, costs, link or Link(), max_streams, self.state.token_bits)
        return following.draft_joined(self.state, record)

    def draft_link(self, node: str, link: Link) -> None:
        record = self.state.drafts.get(node)
        if record is not None:
            record.link = link

    def draft_lost(self, node: str, now: float, *, has_died: bool = True) -> list[Instruction]:
        return following.draft_lost(self.state, node, has_died=has_died)

    def draft_ready(
        self, node: str, stream_id: StreamId, generation: int, now: float
    ) -> list[Instruction]:
        following.draft_ready(self.state, node, stream_id, generation)
        return []

    def draft_failed(
        self,
        node: str,
        stream_id: StreamId,
        generation: int,
        reason: str,
        now: float,
        code: str = "unavailable",
    ) -> list[Instruction]:
        # What is wrong with a request stays wrong.
        for_good = code == "bad_request"
        told = node, stream_id, generation, reason
        return following.draft_failed(self.state, *told, for_good=for_good)

    def guessed(
        self, node: str, parts: Iterable[tuple[ChainPart, tuple[int, ...]]]
    ) -> list[Instruction]:
        return following.guessed(self.state, node, parts)

    # -- the target --------------------------------------------------------------------------------

    def target_link(self, link: Link) -> None:
        self.state.link = link

    def text_told(self, num_tokens: int, now: float) -> None:
        """A text of so many tokens is on its way to the target."""

    def target_ready(
        self,
        stream_id: StreamId,
        generation: int,
        now: float,
        num_read: int | None = None,
        *,
        has_begun: bool = False,
    ) -> list[Instruction]:
        stream = self.stream(stream_id)
        if stream is not None and isinstance(stream.phase, Opening):
            length = len(stream.token_ids)
            num_read = length if num_read is None else min(num_read, length)
            self._counts.text_read(num_read, length)
            if self._target is not None:
                self._target.prompt_read(num_read, length, self.num_streams - 1, now)
        return self.state.target_ready(stream_id, generation, has_begun=has_begun)

    def target_parked(self, stream_id: StreamId, generation: int, now: float) -> list[Instruction]:
        self._counts.num_parked += 1
        return self.state.target_parked(stream_id, generation)

    def target_failed(
        self,
        stream_id: StreamId,
        generation: int,
        reason: str,
        now: float,
        code: str = "unavailable",
    ) -> list[Instruction]:
        return self.state.target_failed(stream_id, generation, reason, code)

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        self._learn(reply, now)
        before = self.state.num_reopened
        for entry in reply.entries:
            stream = self.stream(StreamId(entry.stream_id))
            known = (stream.spec.generation, len(stream.token_ids)) if stream is not None else None
            if stream is not None and known == (entry.generation, entry.prefix_len):
                self._counts.committed(entry, entry.num_tokens, plain_label(stream))
        out = self.state.committed(reply, now)
        self._counts.num_reopened += self.state.num_reopened - before
        return out

    def _learn(self, reply: CommitReply, now: float) -> None:
        """What a pass took, and what was predicted of it."""
        num_decoded, own = pass_size(reply.entries)
        num_tokens = num_decoded + reply.num_read_tokens
        self._counts.pass_done(self._name, reply.pass_s, 0, num_tokens, now)
        predicted_s = 0.0
        if self._target is not None and reply.num_read_tokens <= PROMPT_PIECE_TOKENS:
            used = sum(len(stream.token_ids) for stream in self.streams())
            predicted_s = self._target.pass_s(num_tokens, used, own)
            self.stage_errors.observe("pass", reply.pass_s, predicted_s)
            self._counts.ratios["pass"].observe(reply.pass_s, predicted_s)
            if not reply.num_read_tokens:
                self._target.pass_seen(num_tokens, reply.pass_s, used, own)
        if self._recorder is not None:
            entries = [(entry, 0) for entry in reply.entries]
            times = reply.pass_s, predicted_s
            self._recorder.committed(*times, entries, now, reply.num_read_tokens)

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return next_deadline(self.state)

    def tick(self, now: float) -> list[Instruction]:
        out = self.state.tick(now)
        if now < self._plan_at or self._policy is None:
            return out
        if self._plans_later is not None:
            self._plans_later()
            return out
        planning = self.begin_plan(now)
        return out if planning is None else [*out, *self.take_plan(planning, planning.make(), now)]

    def begin_plan(self, now: float) -> Planning | None:
        """What a plan that is due is to be made of; anybody may make it, and take_plan() has it."""
        if now < self._plan_at or self._policy is None:
            return None
        self._plan_at = now + _PLAN_EVERY_S
        seen = self._observation(now)
        if not any(view.draft for view in seen.streams):
            return None
        return Planning(seen, self._policy)

    def take_plan(self, planning: Planning, made: Made, now: float) -> list[Instruction]:
        """Put a plan in force, whatever has come in since it was begun."""
        was_grouped = self._choice.is_grouped
        is_grouped = self._choice.decide(made, self._observed_price_s(), now)
        if not is_grouped:
            self._plan = _PLAN
            return self.state.wait({})
        if was_grouped and self._plan.batches:
            # Streams that change groups wait for others: not for a little.
            kept_s = price_of(made.observation, self._plan)
            if kept_s * (1.0 - _REGROUPING) < made.grouped_s:
                return self.state.wait(self._with_newcomers(made.grouped))
        self._plan = made.grouped
        return self.state.wait(waits_of(made.grouped))

    def _with_newcomers(self, made: Plan) -> dict[int, Wait]:
        """The waits in force, without streams that have left; new ones go as a new plan has it, in
        a group that there is."""
        new = waits_of(made)
        groups = {wait.group for wait in self.state.waits.values()}
        here = self.state.streams
        kept = {s: wait for s, wait in self.state.waits.items() if StreamId(s) in here}
        return {s: wait for s, wait in new.items() if wait.group in groups} | kept

    def _observed_price_s(self) -> float:
        """The weighted sum over streams of seconds a token, of late; 0.0 if too little is known."""
        streams = [s for s in self.streams() if isinstance(s.phase, Running)]
        if not streams or not all(stream.interval_s for stream in streams):
            return 0.0
        return sum(s.weight * s.interval_s / s.tokens_a_pass for s in streams)

    def _observation(self, now: float) -> Observation:
        state, target = self.state, self._target
        streams = [s for s in self.streams() if isinstance(s.phase, Running)]
        used = sum(len(stream.token_ids) for stream in streams)
        views, names = [], dict[str, int]()
        for stream in streams:
            follow = stream.follow
            name = follow.node if follow is not None and follow.is_ready else None
            if name is not None:
                names[name] = names.get(name, 0) + len(stream.token_ids)
            views.append(
                StreamView(
                    stream_id=stream.spec.stream_id,
                    alpha=stream.acceptance.alpha,
                    tokens_left=stream.tokens_left,
                    fixed_gamma=stream.fixed_gamma,
                    draft=name,
                    weight=stream.weight,
                )
            )
        drafts = []
        for name, cells in names.items():
            node = state.drafts[name]
            link = replace(node.link, rtt_s=node.link.rtt_s + state.link.rtt_s)
            drafts.append(DraftView(name, node.costs, link, cells))
        return Observation(
            streams=tuple(views),
            target=target.now(used / max(1, len(streams))) if target is not None else None,
            drafts=tuple(drafts),
            used_cells=used,
            prefill_share=target.prefill_share(now) if target is not None else 0.0,
            token_bits=state.token_bits,
            target_link=state.link,
        )

    @property
    def target(self) -> TargetCosts | None:
        return self._target

    @property
    def counts(self) -> Counts:
        return self._counts
