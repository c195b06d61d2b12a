"""One simulated mesh in which guesses flow: the states of real nodes on scripted engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from bench.sim.clients import Clients, Request
from bench.sim.devices import Engine, Text
from bench.sim.events import Clock, Medium
from bench.sim.real_nodes import SimNode, to_target
from bench.sim.scripted import (
    NUM_DIGITS,
    ScriptedModel,
    ScriptedTokenizer,
    guesses_of,
    prompt_of,
)
from bench.sim.wire import bits_of
from bench.sim.world import Result, Scenario, SimDraftNode
from nodes.draft.guessing import Guessed, GuessingState
from nodes.draft.guessing_node import guess_notice, take_commits
from nodes.draft.outbox import Outbox
from nodes.engine.sampling import Sampling
from nodes.flow.drafts import Drafts
from nodes.flow.scheduler import FlowScheduler
from nodes.flow.telling import tell_followers
from nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    CommitReply,
    GuessNotice,
    OpenStreamRequest,
    StreamReadyNotice,
    parts_of,
)
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget
from nodes.stream import StreamId, StreamSpec
from nodes.target.events import Committed, Failed, Ready
from nodes.target.node import commit_entry, spec_of
from nodes.target.state import TargetState
from policies.confidence import Calibration, DraftCalibration
from policies.joint import joint_plan
from policies.plan import Link, Policy

_TICK_S = 0.25
_PREFIX_CACHE_BYTES = 1 << 30


@dataclass(slots=True)
class Identity(Calibration):
    """A draft model that is as sure as it is right, and known to be."""

    def chance(self, confidence: float) -> float:
        return confidence

    def observe(self, confidence: float, *, accepted: bool) -> None:
        pass


def identity() -> DraftCalibration:
    return DraftCalibration(Identity((), (0.5,)), Identity((), (0.5,)))


class FlowWorld:
    """Runs a scenario."""

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy = joint_plan,
        *,
        is_grouped: bool | None = None,
        guesses: bool = True,
    ) -> None:
        """policy, is_grouped: as of FlowScheduler. guesses: without them draft nodes stay out."""
        self._scenario = scenario
        self._clock = clock = Clock()
        self._random = Random(scenario.seed)
        self._clients = Clients(scenario)
        self._requests: dict[int, Request] = {}
        self._num_requests = 0
        self._texts: dict[int, Text] = {}
        self._text_ids: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._num_guesses = self._num_accepted = 0
        self._media: dict[str, Medium] = {}
        self._knows = any(client.believed is not None for client in scenario.clients)
        self.num_messages = 0
        self._guesses = guesses
        engine = Engine(clock, scenario.target, scenario.noise, self._random)
        model = ScriptedModel(self._starts)
        state = TargetState(model, ScriptedTokenizer(), _PREFIX_CACHE_BYTES, costs=scenario.target)
        self._target = SimNode(engine, model, state, to_target, self._from_target)
        self._drafts: dict[str, SimNode] = {}
        self._deadline: float | None = None
        self._flow = FlowScheduler(
            scenario.target,
            Drafts(),
            policy=policy,
            is_grouped=is_grouped,
        )
        self._flow.target_link(scenario.target_link or Link(rtt_s=2 * scenario.target_delay_s))

    def run(self) -> Result:
        scenario, clock = self._scenario, self._clock
        for index, node in enumerate(scenario.drafts):
            name = f"draft-{index + 1}"
            if not self._guesses:
                continue
            self._join(name, node)
            if node.away is not None:
                clock.at(node.away[0], partial(self._leave, name))
                clock.at(node.away[1], partial(self._join, name, node))
        for number, client in enumerate(scenario.clients):
            clock.at(client.starts_at, partial(self._ask, number))
        clock.after(_TICK_S, self._tick)
        clock.run(scenario.duration_s)
        for request in self._requests.values():
            self._clients.book(request, self._clock.now)
        return Result(
            self._clients.figures,
            self._target.num_passes,
            clock.num_events,
            self._target.engine.busy_s / scenario.duration_s,
            self._num_guesses,
            self._num_accepted,
            self._flow.num_stale,
        )

    def _tick(self) -> None:
        self._carry_out(self._flow.tick(self._clock.now))
        self._clock.after(_TICK_S, self._tick)

    # -- draft nodes ---------------------------------------------------------------------------

    def _join(self, name: str, node: SimDraftNode) -> None:
        engine = Engine(self._clock, node.costs, self._scenario.noise, self._random)
        model = ScriptedModel(self._starts, guesses_of(self._texts, self._knows))
        has_chances = any(c.evenness is not None or c.texts for c in self._scenario.clients)
        calibration = identity() if self._knows or has_chances else DraftCalibration()
        believed = node.believed or node.costs
        state = GuessingState(model, believed.decode.at, calibration)
        link = node.link
        medium = self._media.setdefault(link.medium or name, Medium())

        outbox = Outbox()
        free_at = 0.0

        def send(message: Any) -> float:
            self.num_messages += 1
            bits = bits_of(message)
            medium.send(self._clock, link, bits, partial(self._from_draft, name, message))
            return medium.free_at

        def flush() -> None:
            nonlocal free_at
            if outbox and free_at <= self._clock.now:
                free_at = send(guess_notice(outbox.take()))
                self._clock.at(free_at, flush)

        def deliver(events: Sequence[object], _seconds: float) -> None:
            for event in events:
                match event:
                    case Guessed(parts=parts):
                        outbox.add(parts)
                    case Ready(stream_id=s, generation=g):
                        send(StreamReadyNotice(s, g))
                    case Failed(reason=reason):
                        raise AssertionError(reason)
            flush()

        def apply(state: GuessingState, message: Any) -> Sequence[object]:
            match message:
                case OpenStreamRequest():
                    self._note_committed(model, message)
                    return state.open(spec_of(message))
                case CloseStreamNotice(stream_id=stream_id, generation=generation):
                    state.close(StreamId(stream_id), generation)
                case CommitNotice(entries=entries):
                    for e in entries:
                        text_id = self._text_ids[e.stream_id]
                        model.committed[text_id] = e.prefix_len + e.num_tokens
                    return take_commits(state, message)
            return ()

        self._drafts[name] = SimNode(engine, model, state, apply, deliver)
        joined = self._flow.draft_joined(name, believed, link, model_hash=node.model_hash)
        self._carry_out(joined)

    def _note_committed(self, model: ScriptedModel, message: OpenStreamRequest) -> None:
        text_id = self._text_ids[message.stream_id]
        model.committed[text_id] = max(len(message.token_ids), message.num_known)

    def _leave(self, name: str) -> None:
        self._drafts.pop(name).is_alive = False
        self._carry_out(self._flow.draft_lost(name, self._clock.now, has_died=False))

    # -- clients -------------------------------------------------------------------------------

    def _ask(self, number: int) -> None:
        client = self._scenario.clients[number]
        self._num_requests += 1
        stream_id = StreamId(self._num_requests)
        self._requests[stream_id] = Request(number)
        text = self._clients.next_text(number)
        text_id = stream_id if text.prompt is None else text.prompt
        num_prompt_tokens = max(NUM_DIGITS, text.num_prompt_tokens or client.num_prompt_tokens)
        # The same text may be asked for with fewer tokens elsewhere.
        known = self._texts.get(text_id)
        if known is None or len(known.luck) < len(text.luck):
            self._texts[text_id] = text
        self._starts[text_id] = num_prompt_tokens
        self._text_ids[stream_id] = text_id
        spec = StreamSpec(
            stream_id=stream_id,
            generation=1,
            owner=f"client-{number}" if text.prompt is None else "all",
            sampling=Sampling(),
            max_tokens=len(text.luck),
            stops=(),
            ignore_eog=True,
            num_prompt_tokens=num_prompt_tokens,
            token_ids=prompt_of(text_id, num_prompt_tokens),
        )
        self._carry_out(self._flow.admit(spec, None, client.weight))

    def _finished(self, stream_id: StreamId) -> None:
        request = self._requests.pop(stream_id)
        figures, _ = self._flow.take_figures(stream_id)
        self._num_guesses += figures.num_draft_tokens
        self._num_accepted += figures.num_accepted_tokens
        self._clients.book(request, self._clock.now)
        number = request.client
        self._clock.after(self._clients.pause_s(number), partial(self._ask, number))

    # -- messages ------------------------------------------------------------------------------

    def _from_target(self, events: Sequence[object], seconds: float) -> None:
        commits = [event for event in events if isinstance(event, Committed)]
        for event in events:
            match event:
                case Ready(stream_id=s, generation=g):
                    notice = StreamReadyNotice(s, g, event.num_read, event.has_begun)
                    self._at_target(notice, partial(self._on_ready, notice))
                case Failed(reason=reason):
                    raise AssertionError(reason)
        if commits:
            token_ids = tuple(t for commit in commits for t in commit.token_ids)
            reply = CommitReply(seconds, tuple(map(commit_entry, commits)), token_ids)
            self._at_target(reply, partial(self._on_committed, reply))

    def _at_target(self, message: Any, action: Callable[[], None]) -> None:
        """Bring a message to the target, or from it; action runs where it arrives."""
        link = self._scenario.target_link
        if link is None:
            self._clock.after(self._scenario.target_delay_s, action)
        else:
            medium = self._media.setdefault(link.medium or "target", Medium())
            medium.send(self._clock, link, bits_of(message), action)

    def _on_ready(self, message: StreamReadyNotice) -> None:
        request = self._requests.get(message.stream_id)
        if request is not None and request.ready_at < 0:
            request.ready_at = self._clock.now
        self._carry_out(
            self._flow.target_ready(
                StreamId(message.stream_id),
                message.generation,
                self._clock.now,
                message.num_read,
                has_begun=message.has_begun,
            )
        )

    def _on_committed(self, reply: CommitReply) -> None:
        self._carry_out(self._flow.committed(reply, self._clock.now))

    def _from_draft(self, name: str, message: Any) -> None:
        if name not in self._flow.state.drafts:
            return
        match message:
            case GuessNotice():
                self._carry_out(self._flow.guessed(name, parts_of(message)))
            case StreamReadyNotice(stream_id=s, generation=g):
                self._flow.draft_ready(name, StreamId(s), g, self._clock.now)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    self._at_target(message, partial(self._target.receive, message))
                case ToDraft(node=name, message=message):
                    self._to_draft(name, message)
                case Emit(stream_id=stream_id, token_ids=token_ids):
                    if self._clock.now >= self._scenario.warm_up_s:
                        self._requests[stream_id].num_tokens += len(token_ids)
                case Finish(stream_id=stream_id):
                    self._finished(stream_id)
                case Abort(error=error):
                    raise AssertionError(f"a stream was given up: {error}")
        deadline = self._flow.next_deadline()
        if deadline is not None and deadline != self._deadline:
            self._deadline = deadline
            self._clock.at(max(deadline, self._clock.now), partial(self._due, deadline))

    def _due(self, deadline: float) -> None:
        if deadline == self._deadline:
            self._deadline = None
            self._carry_out(tell_followers(self._flow.state, self._clock.now))

    def _to_draft(self, name: str, message: Any) -> None:
        index = int(name.rpartition("-")[2]) - 1
        link = self._scenario.drafts[index].link
        draft = self._drafts.get(name)
        if draft is not None:
            self.num_messages += 1
            medium = self._media[link.medium or name]
            medium.send(self._clock, link, bits_of(message), partial(draft.receive, message))
            record = self._flow.state.drafts[name]
            record.free_at = max(medium.free_at, record.free_at)
