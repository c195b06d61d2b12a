"""The scheduler of one target: the interface that the coordinator uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from nodes.messages import (
    MAX_STREAMS_PER_MESSAGE,
    ChainPart,
    CommitEntry,
    CommitReply,
)
from nodes.scheduler import following
from nodes.scheduler.commits import next_deadline
from nodes.scheduler.comparison import Comparisons, Speculation
from nodes.scheduler.drafts import DraftRecord, Drafts
from nodes.scheduler.forecast import Forecast
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.planning import Choice, Made, Mode, Planning, Wait, waits_of
from nodes.scheduler.recorder import Recorder
from nodes.scheduler.report import Report, plain_label
from nodes.scheduler.state import SchedulerState
from nodes.scheduler.stream import Figures, Opening, Running, Stream
from nodes.scheduler.target import TargetCosts
from nodes.telemetry.counts import Counts
from nodes.telemetry.stage_errors import Stage, StageErrors
from nodes.worker.stream import PROMPT_PIECE_TOKENS, StreamId, StreamSpec
from policies.latency import NodeCosts
from policies.plan import (
    ENTRY_BITS,
    HEADER_BITS,
    TEXT_BITS,
    DraftView,
    Link,
    Observation,
    Plan,
    StreamView,
)
from policies.priced import price_of

_OPEN_FLOW_PLAN: Final = Plan(policy="flow")
_PLAN_EVERY_S: Final = 1.0
# Other groups replace those in force only if their predicted price is lower by this share.
_LEAST_REGROUPING_GAIN: Final = 0.04
# Cap on the seconds that a target reports for a pass, so that one number cannot drown all others.
_MOST_PASS_S: Final = 3600.0


class Scheduler:
    """Holds a SchedulerState with its counts, learnt costs and plan.

    The draft nodes in `drafts` are shared by the schedulers of all targets.
    """

    def __init__(
        self,
        target_costs: NodeCosts | None,
        drafts: Drafts,
        *,
        token_bits: int = 32,
        looks_up: bool = False,
        name: str = "",
        counts: Counts | None = None,
        mode: Mode | None = None,
        plans_later: Callable[[], None] | None = None,
    ) -> None:
        """mode: None for no plans, so that no stream waits for another. plans_later: called when a
        plan is due, so that the caller makes it later; without it tick() makes the plan.
        """
        self._mode, self._plans_later = mode, plans_later
        is_grouped = mode.is_grouped if mode is not None else False
        self._choice = Choice(is_grouped=bool(is_grouped), is_forced=is_grouped is not None)
        self._compares = mode is not None and is_grouped is None
        self._comparisons = Comparisons()
        self._plan_at = 0.0
        self._plan = _OPEN_FLOW_PLAN
        self._made: Made | None = None
        has_guesses = mode is None or mode.has_guesses
        looks_up = looks_up and has_guesses
        self.state = SchedulerState(
            drafts, token_bits=token_bits, looks_up=looks_up, has_followers=has_guesses
        )
        self._name = name
        self._counts = counts if counts is not None else Counts()
        self._target = TargetCosts(target_costs) if target_costs is not None else None
        self._recorder: Recorder | None = None
        # By stream: the draft node that was last reported to the recorder.
        self._recorded: dict[StreamId, str] = {}
        self.stage_errors = StageErrors()
        self.report = Report(self)
        self.forecast = Forecast(self)

    # -- what the coordinator reads --------------------------------------------------------------

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

    @property
    def last_made(self) -> Made | None:
        """The last plan that was made, whether it was put in force or not."""
        return self._made

    def record(self, recorder: Recorder | None, now: float) -> None:
        """Report to this recorder from now on, first the last plan and the present followers.

        recorder: None ends the recording.
        """
        self._recorder, self._recorded = recorder, {}
        if recorder is not None and self._made is not None:
            recorder.planned(self._made, is_grouped=self._choice.is_grouped, now=now)
        self._record_followers(now)

    def _record_followers(self, now: float) -> None:
        """Report streams whose draft node has begun or ceased to guess since the last call."""
        if self._recorder is None:
            return
        follows = {s: stream.follow for s, stream in self.state.streams.items()}
        new = {s: follow.node for s, follow in follows.items() if follow and follow.is_ready}
        before, self._recorded = self._recorded, new
        for stream_id in dict.fromkeys([*before, *new]):
            node, stream = new.get(stream_id, ""), self.stream(stream_id)
            if before.get(stream_id, "") != node:
                reason = stream.plain_reason if stream is not None else "it ended or moved on"
                self._recorder.followed(stream_id, node, reason, now)

    # -- streams -----------------------------------------------------------------------------------

    def admit(
        self, spec: StreamSpec, fixed_gamma: int | None, weight: float = 1.0
    ) -> list[Instruction]:
        return self.state.admit(spec, fixed_gamma, weight)

    def adopt(self, stream: Stream) -> list[Instruction]:
        """Open a stream here from its journal, after another target has served it."""
        return self.state.adopt(stream)

    def release(self, stream_id: StreamId, now: float) -> tuple[Stream, list[Instruction]]:
        found = self.state.release(stream_id)
        self._record_followers(now)
        return found

    def release_all(self, now: float) -> tuple[list[Stream], list[Instruction]]:
        found = self.state.release_all()
        self.state.drafts.give_back(self._name)
        self._record_followers(now)
        return found

    def cancel(self, stream_id: StreamId, now: float) -> list[Instruction]:
        out = self.state.cancel(stream_id)
        self._record_followers(now)
        return out

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        return self.state.take_figures(stream_id)

    # -- draft nodes -------------------------------------------------------------------------------

    def draft_joined(
        self,
        node: str,
        costs: NodeCosts,
        link: Link | None = None,
        max_streams: int = MAX_STREAMS_PER_MESSAGE,
    ) -> list[Instruction]:
        record = DraftRecord(node, costs, link or Link(), max_streams, self.state.token_bits)
        return following.draft_joined(self.state, record)

    def draft_link(self, node: str, link: Link) -> None:
        record = self.state.drafts.get(node)
        if record is not None:
            record.link = link
            self.state.drafts.allot(link.medium)

    def draft_lost(self, node: str, now: float, *, has_died: bool = True) -> list[Instruction]:
        out = following.draft_lost(self.state, node, has_died=has_died)
        self._record_followers(now)
        return out

    def draft_ready(
        self, node: str, stream_id: StreamId, generation: int, now: float
    ) -> list[Instruction]:
        following.draft_ready(self.state, node, stream_id, generation)
        self._record_followers(now)
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
        # A request that is invalid for a node stays invalid.
        for_good = code == "bad_request"
        out = following.draft_failed(
            self.state, node, stream_id, generation, reason, for_good=for_good
        )
        self._record_followers(now)
        return out

    def guessed(
        self, node: str, parts: Sequence[tuple[ChainPart, tuple[int, ...]]], now: float
    ) -> list[Instruction]:
        """Guesses of a draft node for streams of this target have arrived."""
        num_tokens = sum(len(token_ids) for _, token_ids in parts)
        self._counts.guessed(node, num_tokens, now)
        if self._recorder is not None:
            self._recorder.guessed(node, len(parts), num_tokens, now)
        return following.guessed(self.state, node, parts)

    # -- the target --------------------------------------------------------------------------------

    def target_link(self, link: Link) -> None:
        self.state.link = link

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
        out = self.state.target_failed(stream_id, generation, reason, code)
        self._record_followers(now)
        return out

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        self._learn(reply, now)
        before = self.state.num_reopened
        for entry in reply.entries:
            stream = self.stream(StreamId(entry.stream_id))
            known = (stream.spec.generation, len(stream.token_ids)) if stream is not None else None
            if stream is not None and known == (entry.generation, entry.prefix_len):
                plain = plain_label(stream, entry.num_offered, self.state.speculation)
                self._counts.committed(entry, entry.num_tokens, plain)
        out = self.state.committed(reply, now)
        self._counts.num_reopened += self.state.num_reopened - before
        if self._compares and self.num_streams:
            out += self._speculate(self._comparisons.of(self.num_streams).speculation)
        self._record_followers(now)
        return out

    def _learn(self, reply: CommitReply, now: float) -> None:
        """Count a pass, and learn from the difference between its time and the prediction."""
        num_decoded, own = pass_size(reply.entries)
        num_tokens = num_decoded + reply.num_read_tokens
        num_guesses = sum(entry.num_draft_tokens for entry in reply.entries)
        pass_s = min(max(0.0, reply.pass_s), _MOST_PASS_S)
        self._counts.pass_done(self._name, pass_s, num_tokens, num_guesses, now)
        predicted_s = 0.0
        if self._target is not None and reply.num_read_tokens <= PROMPT_PIECE_TOKENS:
            used = sum(len(stream.token_ids) for stream in self.streams())
            predicted_s = self._target.pass_s(num_tokens, used, own)
            self._observe("pass", pass_s, predicted_s)
            if reply.num_read_tokens:
                self._target.read_beside(reply.num_read_tokens, num_decoded, own, now)
            else:
                self._target.pass_seen(num_tokens, pass_s, used, own)
                self._compare(reply, pass_s, used)
        if self._recorder is not None:
            times = pass_s, predicted_s
            self._recorder.committed(*times, reply.entries, now, reply.num_read_tokens)

    def _compare(self, reply: CommitReply, pass_s: float, used: int) -> None:
        """Add a pass to the comparison of decoding with and without draft nodes."""
        num = len(reply.entries)
        if not self._compares or self._target is None or not num:
            return
        if self.state.speculation is Speculation.ON and not any(s.follow for s in self.streams()):
            return
        if self._has_fixed():
            return
        tokens = sum(entry.num_tokens for entry in reply.entries) / num
        passes = pass_s / self._target.calibrated_s(num, used, used / num)
        # A draft node that is still reading a text would continue to read during a pause.
        is_read = all(s.follow.is_ready for s in self.streams() if s.follow is not None)
        comparison = self._comparisons.of(self.num_streams)
        comparison.passed(tokens, passes, may_pause=is_read and not self.state.waits)

    def _has_fixed(self) -> bool:
        """Whether a client has fixed the number of guesses of its stream."""
        return any(stream.fixed_gamma for stream in self.streams())

    def _speculate(self, wanted: Speculation) -> list[Instruction]:
        """Switch draft nodes on or off as wanted.

        They stay on if a client has fixed its number of guesses or no draft node is usable.
        """
        state = self.state
        if self._has_fixed() or not state.usable:
            wanted = Speculation.ON
        return following.speculate(state, wanted) if wanted is not state.speculation else []

    def _observe(self, stage: Stage, observed_s: float, predicted_s: float) -> None:
        self.stage_errors.observe(stage, observed_s, predicted_s)
        self._counts.ratios[stage].observe(observed_s, predicted_s)

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return next_deadline(self.state)

    def tick(self, now: float) -> list[Instruction]:
        out = self.state.tick(now)
        self._record_followers(now)
        if now < self._plan_at or self._mode is None:
            return out
        self._take_air(now)
        if self.state.waits and not self._has_guesses():
            # No plan is made without guesses, so the waits of the last plan end here.
            self._plan = _OPEN_FLOW_PLAN
            out += self.state.wait({})
        if self._plans_later is not None:
            self._plans_later()
            return out
        planning = self.begin_plan(now)
        return out if planning is None else [*out, *self.take_plan(planning, planning.make(), now)]

    def begin_plan(self, now: float) -> Planning | None:
        """Returns the inputs of a plan if one is due.

        The caller may run make() on any thread and gives its result to take_plan().
        """
        if now < self._plan_at or self._mode is None:
            return None
        self._plan_at = now + _PLAN_EVERY_S
        if not self._has_guesses():
            return None
        return Planning(self._observation(now), self._mode.policy)

    def _take_air(self, now: float) -> None:
        """Reserve the share of its medium that the target's answers need, if it shares one."""
        num, link = self.num_streams, self.state.link
        if not link.medium or self._target is None:
            return
        if not num:
            self.state.drafts.take(self._name, link.medium, 0.0)
            return
        num_bits = HEADER_BITS + num * (ENTRY_BITS + self.state.token_bits + TEXT_BITS)
        pass_s = self._target.expected_s(num, self.cells, 0.0, now)
        self.state.drafts.take(self._name, link.medium, link.airtime_s(num_bits, 1) / pass_s)

    def _has_guesses(self) -> bool:
        return self.state.speculation is Speculation.ON and any(
            isinstance(s.phase, Running) and s.is_guessed_for for s in self.streams()
        )

    def take_plan(self, planning: Planning, made: Made, now: float) -> list[Instruction]:
        """Put a plan in force, even if streams have changed since it was begun."""
        was_grouped = self._choice.is_grouped
        observed_s = self.observed_price_s()
        self._observe("plan", observed_s, made.grouped_s if was_grouped else made.open_s)
        is_grouped = self._choice.decide(made, observed_s, now)
        self._made = made
        if self._recorder is not None:
            self._recorder.planned(made, is_grouped=is_grouped, now=now)
        if not is_grouped:
            self._plan = _OPEN_FLOW_PLAN
            return self.state.wait({})
        if was_grouped and self._plan.batches:
            # Streams that change groups wait for others, so a small gain is not enough.
            kept_s = price_of(made.observation, self._plan)
            if kept_s * (1.0 - _LEAST_REGROUPING_GAIN) < made.grouped_s:
                return self.state.wait(self._with_newcomers(made.grouped))
        self._plan = made.grouped
        return self.state.wait(waits_of(made.grouped))

    def _with_newcomers(self, made: Plan) -> dict[int, Wait]:
        """Returns the waits in force, updated for streams that have changed.

        Streams that have left or lost their draft node are removed. These and new streams are added
        where the new plan puts them into a group that exists.
        """
        new = waits_of(made)
        groups = {wait.group for wait in self.state.waits.values()}
        here = self.state.streams
        kept = {
            s: wait
            for s, wait in self.state.waits.items()
            if StreamId(s) in here and (not wait.num_guesses or here[StreamId(s)].is_guessed_for)
        }
        return {s: wait for s, wait in new.items() if wait.group in groups} | kept

    def observed_price_s(self) -> float:
        """The recent weighted sum over streams of seconds a token; 0.0 if too little is known."""
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
            view = DraftView(name, node.costs, link, cells)
            drafts.append(replace(view, share_up=node.share_up, share_down=node.share_down))
        return Observation(
            streams=tuple(views),
            target=target.now(used / max(1, len(streams))) if target is not None else None,
            drafts=tuple(drafts),
            used_cells=used,
            prefill_share=target.prefill_share(now) if target is not None else 0.0,
            token_bits=state.token_bits,
            target_link=state.link,
            groups=tuple(batch.stream_ids for batch in self._plan.batches),
        )

    @property
    def target(self) -> TargetCosts | None:
        return self._target

    @property
    def counts(self) -> Counts:
        return self._counts


def pass_size(entries: Iterable[CommitEntry]) -> tuple[int, float]:
    """Returns the tokens of a target pass, and the cells of its own stream that a token attends to
    on average."""
    num_tokens, attended = 0, 0
    for entry in entries:
        num_tokens += entry.num_draft_tokens + 1
        attended += (entry.num_draft_tokens + 1) * entry.prefix_len
    return num_tokens, attended / max(1, num_tokens)
