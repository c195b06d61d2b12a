"""One simulated mesh: clients in a closed loop, a target, draft nodes, and the live scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import fmean
from typing import Any

from bench.sim.clients import ClientFigures, Clients, Request
from bench.sim.devices import Engine, Text
from bench.sim.draft import SimDraft
from bench.sim.events import Clock, Medium
from bench.sim.target import SimTarget
from bench.sim.wire import bits_of
from nodes.engine.sampling import Sampling
from nodes.messages import DraftReply, OpenStreamRequest, StreamReadyNotice
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget
from nodes.stream import StreamId, StreamSpec
from policies.acceptance import AcceptanceEstimate
from policies.confidence import Spread
from policies.latency import NodeCosts
from policies.plan import Link, Plan, Policy

# Between looks at the plan in force.
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDraftNode:
    """A draft node. believed: what the scheduler is told of its costs, the truth if not given.

    model_hash: "" for a draft model of its own. away: (from, to) seconds in which it is gone.
    """

    costs: NodeCosts
    link: Link
    believed: NodeCosts | None = None
    model_hash: str = ""
    away: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimClient:
    """A user who asks again some seconds after each answer.

    alphas: acceptance by position. believed: the same as the scheduler knows it; None: it learns.
    evenness: where given, tokens differ: each has a chance of its own, of a beta distribution with
    mean alphas[0], and more alike the greater this is; drafts know it. None: all are alike.
    weight: in the plan's objective. texts: asked for in turns; instead of drawn ones where given.
    """

    alphas: tuple[float, ...]
    num_prompt_tokens: int
    max_tokens: tuple[int, int]
    think_s: float
    starts_at: float
    believed: tuple[float, ...] | None = None
    evenness: float | None = None
    weight: float = 1.0
    texts: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a run depends on, but for the policy. target_delay_s: one way, where there is
    no target_link: of a target on a medium.

    spread: how sure drafts are of their guesses, as was measured of them. trials: rounds on trial,
    as in live meshes, where acceptance is learnt.
    """

    seed: int
    target: NodeCosts
    drafts: tuple[SimDraftNode, ...]
    clients: tuple[SimClient, ...]
    spread: Spread | None = None
    duration_s: float
    warm_up_s: float = 0.0
    noise: float = 0.05
    target_delay_s: float = 1e-4
    target_link: Link | None = None
    trials: bool = False


@dataclass(slots=True)
class Result:
    """Figures of a run. price_s: mean over clients of seconds a token, what policies minimise.

    promised_per_s: tokens of all clients as the plans in force promise, on average over time.
    """

    clients: list[ClientFigures]
    num_passes: int
    num_events: int
    target_busy: float
    num_guesses: int = 0
    num_accepted: int = 0
    num_stale: int = 0
    plans: int = 0
    promised_per_s: float = 0.0

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
class _Known(AcceptanceEstimate):
    """An acceptance that is given and never learnt."""

    given: tuple[float, ...] = ()

    def observe(
        self, num_draft_tokens: int, num_accepted_tokens: int, num_asked: int | None = None
    ) -> None:
        pass

    @property
    def alpha(self) -> float:
        return self.given[0]

    @property
    def alphas(self) -> tuple[float, ...]:
        return self.given


class World:
    """Runs a scenario under a policy."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self._scenario = scenario
        self._clock = Clock()
        self._random = Random(scenario.seed)
        self._clients = Clients(scenario)
        self._texts: dict[int, Text] = {}
        self._requests: dict[int, Request] = {}
        self._num_requests = 0
        self._promised: list[float] = []
        self._num_guesses = self._num_accepted = self._num_plans = 0

        def counted(observation: Any) -> Any:
            self._num_plans += 1
            return policy(observation)

        knows = any(client.believed is not None for client in scenario.clients)
        self._scheduler = SchedulerState(
            counted,
            scenario.target,
            self._believed if knows else None,
            trials=scenario.trials and not knows,
        )
        link = scenario.target_link or Link(rtt_s=2 * scenario.target_delay_s)
        self._scheduler.target_link(link)
        self._engine = Engine(self._clock, scenario.target, scenario.noise, self._random)
        self._target = SimTarget(self._engine, self._texts, self._from_target)
        self._media: dict[str, Medium] = {}
        self._drafts: dict[str, SimDraft] = {}
        self._deadline: float | None = None

    def run(self) -> Result:
        scenario, clock = self._scenario, self._clock
        for index, node in enumerate(scenario.drafts):
            name = f"draft-{index + 1}"
            self._join(name, node)
            if node.away is not None:
                clock.at(node.away[0], partial(self._leave, name))
                clock.at(node.away[1], partial(self._join, name, node))
        for number, client in enumerate(scenario.clients):
            clock.at(client.starts_at, partial(self._ask, number))
        clock.at(scenario.warm_up_s, self._note_promise)
        clock.run(scenario.duration_s)
        for request in self._requests.values():
            self._clients.book(request, self._clock.now)
        return Result(
            self._clients.figures,
            self._target.num_passes,
            clock.num_events,
            self._engine.busy_s / scenario.duration_s,
            self._num_guesses,
            self._num_accepted,
            self._scheduler.num_stale,
            self._num_plans,
            fmean(self._promised) if self._promised else 0.0,
        )

    def _note_promise(self) -> None:
        made = self.plan.prediction
        if made is not None:
            self._promised.append(made.tokens_per_s / (1.0 - made.ahead_gain))
        self._clock.after(_LOOK_S, self._note_promise)

    @property
    def plan(self) -> Plan:
        """The plan in force: now, or when the run has ended."""
        return self._scheduler.plan_in_force

    def _believed(self, stream_id: StreamId) -> AcceptanceEstimate:
        client = self._scenario.clients[self._requests[stream_id].client]
        return _Known(given=client.believed or client.alphas)

    # -- draft nodes ---------------------------------------------------------------------------

    def _join(self, name: str, node: SimDraftNode) -> None:
        engine = Engine(self._clock, node.costs, self._scenario.noise, self._random)
        link = node.link
        medium = self._media.setdefault(link.medium or name, Medium())

        def send(message: Any) -> None:
            bits = bits_of(message)
            medium.send(self._clock, link, bits, lambda: self._from_draft(name, message))

        self._drafts[name] = SimDraft(engine, self._texts, send)
        costs = node.believed or node.costs
        spread = self._scenario.spread
        joined = self._scheduler.draft_joined(name, costs, link, spread, model_hash=node.model_hash)
        self._carry_out(joined)

    def _leave(self, name: str) -> None:
        self._drafts.pop(name).is_alive = False
        self._carry_out(self._scheduler.draft_lost(name, self._clock.now))

    # -- clients ---------------------------------------------------------------------------------

    def _ask(self, number: int) -> None:
        client = self._scenario.clients[number]
        self._num_requests += 1
        stream_id = StreamId(self._num_requests)
        self._requests[stream_id] = Request(number)
        text = self._clients.next_text(number)
        self._texts[stream_id] = text
        max_tokens = len(text.luck)
        num_prompt_tokens = text.num_prompt_tokens or client.num_prompt_tokens
        spec = StreamSpec(
            stream_id=stream_id,
            generation=1,
            owner=f"client-{number}",
            sampling=Sampling(),
            max_tokens=max_tokens,
            stops=(),
            ignore_eog=True,
            num_prompt_tokens=num_prompt_tokens,
            token_ids=(0,) * num_prompt_tokens,
        )
        self._carry_out(self._scheduler.admit(spec, None, client.weight))

    def _finished(self, stream_id: StreamId) -> None:
        request = self._requests.pop(stream_id)
        del self._texts[stream_id]
        figures, _ = self._scheduler.take_figures(stream_id)
        self._num_guesses += figures.num_draft_tokens
        self._num_accepted += figures.num_accepted_tokens
        self._clients.book(request, self._clock.now)
        number = request.client
        self._clock.after(self._clients.pause_s(number), partial(self._ask, number))

    # -- messages ----------------------------------------------------------------------------------

    def _from_target(self, message: Any) -> None:
        self._at_target(message, partial(self._on_target, message))

    def _at_target(self, message: Any, action: Callable[[], None]) -> None:
        """Bring a message to the target, or from it; action runs where it arrives."""
        link = self._scenario.target_link
        if link is None:
            self._clock.after(self._scenario.target_delay_s, action)
        else:
            medium = self._media.setdefault(link.medium or "target", Medium())
            medium.send(self._clock, link, bits_of(message), action)

    def _on_target(self, message: Any) -> None:
        now = self._clock.now
        if isinstance(message, StreamReadyNotice):
            request = self._requests[message.stream_id]
            request.ready_at = now
            stream_id = StreamId(message.stream_id)
            ready = stream_id, message.generation, now, message.num_read
            self._carry_out(self._scheduler.target_ready(*ready))
        else:
            self._carry_out(self._scheduler.committed(message, now))

    def _from_draft(self, name: str, message: Any) -> None:
        now, scheduler = self._clock.now, self._scheduler
        if isinstance(message, DraftReply):
            self._carry_out(scheduler.drafted(name, message, now))
        elif scheduler.stream(StreamId(message.stream_id)) is not None:
            ready = scheduler.draft_ready(
                name, StreamId(message.stream_id), message.generation, now
            )
            self._carry_out(ready)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    if isinstance(message, OpenStreamRequest):
                        self._scheduler.text_told(len(message.token_ids), self._clock.now)
                    self._at_target(message, partial(self._target.receive, message))
                case ToDraft(node=name, message=message):
                    self._to_draft(name, message)
                case Emit(stream_id=stream_id, token_ids=token_ids):
                    if self._clock.now >= self._scenario.warm_up_s:
                        self._requests[stream_id].num_tokens += len(token_ids)
                case Finish(stream_id=stream_id):
                    self._finished(stream_id)
                case Abort(error=error):
                    raise AssertionError(f"the scheduler gave a stream up: {error}")
        deadline = self._scheduler.next_deadline()
        if deadline is not None and deadline != self._deadline:
            self._deadline = deadline
            self._clock.at(max(deadline, self._clock.now), partial(self._tick, deadline))

    def _tick(self, deadline: float) -> None:
        if deadline != self._deadline:
            return
        self._deadline = None
        self._carry_out(self._scheduler.tick(self._clock.now))

    def _to_draft(self, name: str, message: Any) -> None:
        index = int(name.rpartition("-")[2]) - 1
        link = self._scenario.drafts[index].link
        draft = self._drafts.get(name)
        if draft is not None:
            medium = self._media[link.medium or name]
            medium.send(self._clock, link, bits_of(message), partial(draft.receive, message))
