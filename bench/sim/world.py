"""One simulated mesh: clients in a closed loop, and real node states on scripted engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from statistics import fmean
from typing import Any

from airdraft.nodes.draft import node as draft_node
from airdraft.nodes.draft.outbox import Outbox
from airdraft.nodes.draft.state import DraftState, Guessed
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyTokenizer
from airdraft.nodes.messages import (
    CommitNotice,
    CommitReply,
    GuessNotice,
    OpenStreamRequest,
    StreamFailedNotice,
    StreamReadyNotice,
    with_tokens,
)
from airdraft.nodes.scheduler.commits import tell_followers
from airdraft.nodes.scheduler.drafts import Drafts
from airdraft.nodes.scheduler.in_force import begin_plan, observed_price_s, take_plan
from airdraft.nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
)
from airdraft.nodes.scheduler.planning import MODES, Mode
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.scheduler.stream import Figures
from airdraft.nodes.target import node as target_node
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.telemetry.counts import Stage
from airdraft.nodes.telemetry.status import ErrorStatus
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.acceptance import Calibration, DraftCalibration
from airdraft.policies.plan import HEADER_BITS
from bench.emulate.cell import DOWN, UP, Direction
from bench.sim.devices import Air, Clock, Device, Medium, SimNode, bits_of
from bench.sim.scenario import Client, ClientFigures, Request, Scenario, SimDraftNode, Text
from bench.sim.scripted import NUM_DIGITS, NUM_VOCAB, ScriptedModel, prompt_of

_TARGET = "target-0"
_TICK_S = 0.25
_PREFIX_CACHE_BYTES = 1 << 30


@dataclass(slots=True)
class Result:
    """Figures of a run. num_finished: finished answers. price_s: mean over clients of seconds a
    token, which plans minimise. promised: ratio of the observed price to the predicted price of
    the plan in force, averaged over time. num_messages: messages to and from draft nodes.
    longest_gap_s: the longest time that a stream waited for its next tokens. errors: errors of
    predictions, by stage.
    """

    clients: list[ClientFigures]
    num_events: int = 0
    num_finished: int = 0
    num_guesses: int = 0
    num_accepted: int = 0
    num_messages: int = 0
    promised: float = 0.0
    longest_gap_s: float = 0.0
    errors: Mapping[Stage, ErrorStatus] = field(default_factory=dict)

    @property
    def price_s(self) -> float:
        served = [c for c in self.clients if c.seconds > 0]
        return sum(c.seconds / max(1, c.num_tokens) for c in served) / len(served)

    @property
    def tokens_per_s(self) -> float:
        return sum(c.tokens_per_s for c in self.clients)

    @property
    def worst_share(self) -> float:
        """Rate of the worst-served client over the mean rate."""
        rates = [c.tokens_per_s for c in self.clients if c.seconds > 0]
        return min(rates) * len(rates) / sum(rates)


@dataclass(slots=True)
class _Identity(Calibration):
    """Calibration that takes a draft model's confidence in a guess as its chance of acceptance."""

    def chance(self, confidence: float) -> float:
        return confidence

    def observe(self, confidence: float, *, accepted: bool) -> None:
        pass


def _identity() -> DraftCalibration:
    return DraftCalibration(_Identity((), (0.5,)), _Identity((), (0.5,)))


class World:
    """Runs a scenario. Raises AssertionError if a stream loses a token or is aborted."""

    def __init__(self, scenario: Scenario, mode: Mode = MODES["auto"]) -> None:
        """mode: how the scheduler plans."""
        self._scenario = scenario
        self._clock = clock = Clock()
        self._random = Random(scenario.seed)
        self._clients = [Client(scenario, number) for number in range(len(scenario.clients))]
        self._result = Result([client.figures for client in self._clients])
        self._requests: dict[int, Request] = {}
        self._num_requests = 0
        self._texts: dict[int, Text] = {}
        self._text_ids: dict[int, int] = {}
        named = {f"draft-{k}": node.link for k, node in enumerate(scenario.drafts)}
        self._links = {_TARGET: scenario.target_link, **named}
        self._media: dict[str, Medium] = {}
        self._air = Air(clock, scenario.cell) if scenario.cell is not None else None
        # Whether the draft models' confidence is the (believed) chance of each guess.
        self._says_chances = any(
            c.believed is not None or c.evenness is not None or c.texts for c in scenario.clients
        )
        self._promised: list[float] = []
        known = (text.token_ids for client in scenario.clients for text in client.texts)
        num_vocab = max([NUM_VOCAB, *(1 + max(token_ids, default=0) for token_ids in known)])
        model = ScriptedModel(self._texts, num_vocab=num_vocab)
        tokenizer = ToyTokenizer(num_vocab)
        state = TargetState(model, tokenizer, _PREFIX_CACHE_BYTES, costs=scenario.target)
        device = Device(clock, scenario.target, scenario.noise, self._random)
        self._target = SimNode(device, model, state, target_node.apply, self._from_target)
        self._drafts: dict[str, SimNode] = {}
        self._deadline: float | None = None
        self._scheduler = Scheduler(
            scenario.target, Drafts(), mode=mode, looks_up=scenario.looks_up
        )
        self._scheduler.link = scenario.target_link

    def run(self) -> Result:
        scenario, clock = self._scenario, self._clock
        for number, node in enumerate(scenario.drafts):
            name = f"draft-{number}"
            self._join(name, node)
            if node.away is not None:
                clock.at(node.away[0], partial(self._leave, name))
                clock.at(node.away[1], partial(self._join, name, node))
        for client in self._clients:
            clock.at(client.settings.starts_at, partial(self._ask, client))
        clock.after(_TICK_S, self._tick)
        clock.run(scenario.duration_s)
        for request in self._requests.values():
            request.client.book(request, self._clock.now)
            if request.ready_at >= 0:
                self._note_gap(request)
        for stream in self._scheduler.streams.values():
            self._count(stream.figures)
        self._result.num_events = clock.num_events
        self._result.promised = fmean(self._promised) if self._promised else 0.0
        self._result.errors = self._scheduler.counts.errors()
        return self._result

    def _tick(self) -> None:
        now, scheduler = self._clock.now, self._scheduler
        self._carry_out(scheduler.tick(now))
        if scheduler.is_plan_due and (planning := begin_plan(scheduler, now)) is not None:
            self._carry_out(take_plan(scheduler, planning.make()))
        observed_s, made = observed_price_s(scheduler), scheduler.last_result
        if now >= self._scenario.warm_up_s and observed_s and made is not None:
            predicted_s = made.grouped_s if scheduler.plan.batches else made.open_s
            self._promised.append(observed_s / predicted_s)
        self._clock.after(_TICK_S, self._tick)

    # -- draft nodes ---------------------------------------------------------------------------

    def _join(self, name: str, node: SimDraftNode) -> None:
        device = Device(self._clock, node.costs, self._scenario.noise, self._random)
        model = ScriptedModel(self._texts, is_draft=True)
        calibration = _identity() if self._says_chances else DraftCalibration()
        believed = node.believed or node.costs
        state = DraftState(model, calibration, costs=node.costs.decode)
        link = node.link
        if link.medium:
            state.branches.forbid()
        outbox = Outbox(0 if link.is_free else min(1e15, link.rate_bps), link.frame_s)

        def send(message: Any) -> None:
            self._result.num_messages += 1
            self._carry(name, UP, message, partial(self._from_draft, name, message))

        def flush() -> None:
            if outbox and outbox.free_at <= self._clock.now:
                notice = draft_node.guess_notice(outbox.take())
                send(notice)
                outbox.sent(HEADER_BITS + bits_of(notice), self._clock.now)
                self._clock.at(outbox.free_at, flush)

        def deliver(events: Sequence[object], _seconds: float) -> None:
            for event in events:
                match event:
                    case Guessed(parts=parts, live=live):
                        outbox.add(parts, live)
                    case StreamReadyNotice():
                        send(event)
                    case StreamFailedNotice(reason=reason):
                        raise AssertionError(reason)
            flush()

        def apply(state: DraftState, message: Any) -> Sequence[object]:
            match message:
                case OpenStreamRequest(stream_id=stream_id, token_ids=ids):
                    model.committed[self._text_ids[stream_id]] = max(len(ids), message.num_known)
                case CommitNotice(entries=entries):
                    if message.rate_bps:
                        outbox.allot(message.rate_bps)
                        state.branches.forbid()
                    for e in entries:
                        text_id = self._text_ids[e.stream_id]
                        model.committed[text_id] = e.prefix_len + e.num_tokens
            return draft_node.apply(state, message)

        self._drafts[name] = SimNode(device, model, state, apply, deliver)
        joined = self._scheduler.draft_joined(name, believed, link)
        self._carry_out(joined)

    def _leave(self, name: str) -> None:
        self._drafts.pop(name).is_alive = False
        self._carry_out(self._scheduler.draft_lost(name, has_died=False))

    # -- clients -------------------------------------------------------------------------------

    def _ask(self, client: Client) -> None:
        self._num_requests += 1
        stream_id = StreamId(self._num_requests)
        text, settings = client.next_text(), client.settings
        self._requests[stream_id] = Request(client, len(text.luck))
        text_id = stream_id if text.prompt is None else text.prompt
        num_prompt_tokens = max(NUM_DIGITS, text.num_prompt_tokens or settings.num_prompt_tokens)
        # Another request may have the same text cut to fewer tokens; keep the longer one.
        known = self._texts.get(text_id)
        if known is None or len(known.luck) < len(text.luck):
            self._texts[text_id] = replace(text, num_prompt_tokens=num_prompt_tokens)
        self._text_ids[stream_id] = text_id
        spec = StreamSpec(
            stream_id=stream_id,
            generation=1,
            owner=client.name if text.prompt is None else "all",
            sampling=Sampling(),
            max_tokens=len(text.luck),
            stops=(),
            ignore_eog=True,
            num_prompt_tokens=num_prompt_tokens,
            token_ids=prompt_of(text_id, num_prompt_tokens, text.token_ids),
            weight=settings.weight,
        )
        self._carry_out(self._scheduler.admit(spec))

    def _emitted(self, stream_id: StreamId, position: int, token_ids: Sequence[int]) -> None:
        request, num_tokens = self._requests[stream_id], len(token_ids)
        assert position == request.num_sent
        text = self._texts[self._text_ids[stream_id]]
        if text.token_ids:
            first = text.num_prompt_tokens + position
            assert tuple(token_ids) == text.token_ids[first : first + num_tokens]
        request.num_sent += num_tokens
        if self._clock.now >= self._scenario.warm_up_s:
            request.client.figures.num_tokens += num_tokens
        self._note_gap(request)

    def _note_gap(self, request: Request) -> None:
        """Record how long a stream waited until now, when it got tokens or the run ended."""
        gap_s = self._clock.now - request.last_at
        self._result.longest_gap_s = max(self._result.longest_gap_s, gap_s)
        request.last_at = self._clock.now

    def _finished(self, finish: Finish) -> None:
        request = self._requests.pop(finish.stream_id)
        assert request.num_sent == request.num_wanted
        self._result.num_finished += 1
        self._count(finish.figures)
        request.client.book(request, self._clock.now)
        self._clock.after(request.client.pause_s(), partial(self._ask, request.client))

    def _count(self, figures: Figures) -> None:
        self._result.num_guesses += figures.num_draft_tokens
        self._result.num_accepted += figures.num_accepted_tokens

    # -- messages ------------------------------------------------------------------------------

    def _from_target(self, events: Sequence[object], seconds: float) -> None:
        for message in target_node.messages_of(events, seconds):
            match message:
                case StreamReadyNotice():
                    self._carry(_TARGET, UP, message, partial(self._on_ready, message))
                case CommitReply():
                    self._carry(_TARGET, UP, message, partial(self._on_committed, message))
                case StreamFailedNotice(reason=reason):
                    raise AssertionError(reason)

    def _carry(
        self, node: str, direction: Direction, message: Any, action: Callable[[], None]
    ) -> None:
        """Carry a message over a node's link; action runs when it arrives."""
        link, bits = self._links[node], bits_of(message)
        if self._air is not None and link.medium:
            self._air.send(node, direction, bits, action)
        else:
            # A link of its own carries both ways at once, as the scheduler has it.
            medium = self._media.setdefault(link.medium or f"{node} {direction}", Medium())
            medium.send(self._clock, link, bits, action)

    def _on_ready(self, message: StreamReadyNotice) -> None:
        request = self._requests.get(message.stream_id)
        if request is not None and request.ready_at < 0:
            request.ready_at = request.last_at = self._clock.now
        self._carry_out(
            self._scheduler.target_ready(
                StreamId(message.stream_id),
                message.generation,
                message.num_read,
                has_begun=message.has_begun,
            )
        )

    def _on_committed(self, reply: CommitReply) -> None:
        self._carry_out(self._scheduler.committed(reply, self._clock.now))

    def _from_draft(self, name: str, message: Any) -> None:
        if name not in self._scheduler.drafts:
            return
        match message:
            case GuessNotice():
                self._carry_out(
                    self._scheduler.guessed(
                        name, list(with_tokens(message.parts, message.token_ids)), self._clock.now
                    )
                )
            case StreamReadyNotice(stream_id=s, generation=g):
                self._scheduler.draft_ready(name, StreamId(s), g)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    self._carry(_TARGET, DOWN, message, partial(self._target.receive, message))
                case ToDraft(node=name, message=message):
                    self._to_draft(name, message)
                case Emit(stream_id=stream_id, position=position, token_ids=token_ids):
                    self._emitted(stream_id, position, token_ids)
                case Finish():
                    self._finished(instruction)
                case Abort(error=error):
                    raise AssertionError(f"a stream was aborted: {error}")
        deadline = self._scheduler.next_deadline()
        if deadline is not None and deadline != self._deadline:
            self._deadline = deadline
            self._clock.at(max(deadline, self._clock.now), partial(self._due, deadline))

    def _due(self, deadline: float) -> None:
        if deadline == self._deadline:
            self._deadline = None
            self._carry_out(tell_followers(self._scheduler, self._clock.now))

    def _to_draft(self, name: str, message: Any) -> None:
        if (draft := self._drafts.get(name)) is not None:
            self._result.num_messages += 1
            self._carry(name, DOWN, message, partial(draft.receive, message))
