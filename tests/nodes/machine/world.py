"""A whole mesh in one thread: the coordinator's shell on a network in virtual time, and processes.

Who moves next is drawn; while nobody can, time goes on to what is due next.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from airdraft.mesh.codec import decode
from airdraft.mesh.messages import PROTOCOL_VERSION, Hello
from airdraft.mesh.transport import Received
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.coordinator.members.record import NodeRecord
from airdraft.nodes.coordinator.service import Coordinator
from airdraft.nodes.messages import (
    GuessNotice,
    LinkFields,
    NodeCommandRequest,
    StatusReply,
    StatusRequest,
    SubmitRequest,
)
from airdraft.nodes.scheduler.planning import MODES, Mode, PlanInput
from airdraft.nodes.telemetry.status import Status, decode_status
from airdraft.nodes.worker.profile import encode_profile
from airdraft.policies.latency import NodeCosts
from tests.nodes.builders import make_submit
from tests.nodes.machine.checks import check, check_empty, left_of_requests
from tests.nodes.machine.client import Asked, ClientProcess
from tests.nodes.machine.invariants import check_phases
from tests.nodes.machine.network import Connection, Disorder, Network
from tests.nodes.machine.process import NodeProcess, Process
from tests.nodes.machine.setup import DRAFT_COSTS, TARGET_COSTS, Setup, alone, tokenized
from tests.nodes.pure_node import PureNode
from tests.nodes.reference import Reference
from tests.nodes.wild_policy import WildPolicy

HEARTBEAT_S, TIMEOUT_S = 0.5, 2.5
_TICK_S, _LEAST_TICK_S = 0.1, 0.001
_MOVE_S = 1e-3
# Long enough for some plans to come while a text is written.
_PASS_S = (0.0, 1e-2, 0.1)
# What is learnt of targets makes them differ more.
_SPEEDS = (1.0, 3.0, 0.4)
_CHECK_EVERY = 16
# Requests that wait for a target are given up after 30 s. A lost message shows by silence: after
# 10 s, and each time after twice as long. A random plan may take minutes for 200 tokens.
_END_S = 2000.0
_QUIET_S = 3 * TIMEOUT_S
_TAME = ("auto", "auto", "open", "grouped", "alternating")


class World:
    """One coordinator, and whoever is with it."""

    def __init__(self, setup: Setup, disorder: Disorder | None = None) -> None:
        self.setup = setup
        self.now = 100.0
        self.random = random.Random(setup.seed)
        self.network = Network(self.clock, disorder)
        self.coordinator = self._new_coordinator()
        self.planning: tuple[NodeRecord, PlanInput] | None = None
        self.processes: list[Process] = []
        # Of processes that have ended, too.
        self.clients: list[ClientProcess] = []
        # Whether anything has happened that targets may have suffered from, and losses on the way.
        self.had_target_trouble = self.has_losses = False
        # Whether what failed, and came again, may be the reason of what fails.
        self.is_lenient = False
        self._num_moves = 0
        self._num_started = 0
        self._ticked_at = self.now
        for index in range(len(setup.target_cells)):
            self.start_node("target", index)
        for index in range(len(setup.drafts)):
            self.start_node("draft", index)
        self.admin = self.start_client("admin")
        self.pass_by(1.0)

    def clock(self) -> float:
        return self.now

    def _new_coordinator(self) -> Coordinator:
        mode = MODES[self.random.choice(_TAME)]
        if self.setup.has_wild_policy:
            mode = Mode(WildPolicy(self.random.randrange), self.random.choice((None, True, True)))
        config = CoordinatorConfig(
            cluster="virtual",
            heartbeat_interval_s=HEARTBEAT_S,
            heartbeat_timeout_s=TIMEOUT_S,
            prompt_lookup=self.setup.has_lookup,
        )
        return Coordinator(self.network, config, mode=mode, clock=self.clock)

    # -- processes ---------------------------------------------------------------------------------

    def _hello(self, name: str, role: str, profile: bytes = b"") -> Hello:
        self._num_started += 1
        return Hello(name, role, self._num_started, PROTOCOL_VERSION, profile)

    def start_node(self, role: str, index: int) -> NodeProcess:
        """A process of that name, though there may be one."""
        node, link = self.make_node(role, index), LinkFields("", 0.0, 0.0)
        costs = _scaled(_SPEEDS[index % len(_SPEEDS)])
        if role == "draft":
            costs, link = DRAFT_COSTS, replace(link, rate_bps=self.setup.draft_bps)
        hello = self._hello(
            f"{role}-{index}", role, encode_profile(node.model.info, costs, link=link)
        )
        process = NodeProcess(self.network, self.clock, hello, node)
        self.processes.append(process)
        return process

    def make_node(self, role: str, index: int) -> PureNode:
        setup, toy = self.setup, self.setup.toy
        tokenize = partial(tokenized, toy.num_vocab)
        if role == "target":
            config = replace(toy, num_cells=setup.target_cells[index])
            return PureNode(role, config, tokenize, self.draw_pass_s, setup.prefix_cache_bytes)
        own = setup.drafts[index]
        config = replace(own, num_vocab=toy.num_vocab, seed=toy.seed, eog_rate=toy.eog_rate)
        return PureNode(role, config, tokenize, has_grammars=setup.has_grammars)

    def draw_pass_s(self) -> float:
        return self.random.choice(_PASS_S)

    def start_client(self, role: str) -> ClientProcess:
        """A gateway joins again where it was lost."""
        client = ClientProcess(
            self.network,
            self.clock,
            self._hello(f"{role}-{self._num_started}", role),
            rejoins=role in ("gateway", "admin"),
            on_failure=self.on_failure,
            is_lenient=lambda: self.is_lenient,
        )
        self.processes.append(client)
        self.clients.append(client)
        return client

    def join(self, role: str = "client") -> ClientProcess:
        """A client that is a member."""
        client = self.start_client(role)
        self.pass_by(0.5)
        return client

    def nodes(self, role: str = "") -> list[NodeProcess]:
        nodes = [p for p in self.processes if isinstance(p, NodeProcess) and not p.has_ended]
        return [node for node in nodes if role in ("", node.role)]

    def command(self, command: str, node: str) -> None:
        if command != "undrain" and node.startswith("target"):
            self.had_target_trouble = True
        self.admin.send(NodeCommandRequest(1, command, node))

    def troubled(self, process: Process) -> None:
        """Something is done to a process that may end what it is part of."""
        process.had_trouble = True
        if process.role == "target":
            self.had_target_trouble = True

    def submit(
        self, client: ClientProcess, submit: SubmitRequest, *, is_uploaded: bool = False
    ) -> None:
        client.submit(submit, partial(self.alone, submit), is_uploaded=is_uploaded)

    def alone(self, submit: SubmitRequest, choice: int) -> Reference:
        return alone(self.setup.toy, submit, choice)

    def on_failure(self, client: ClientProcess, asked: Asked) -> None:
        """An error must be one that what has happened explains."""
        assert asked.failure is not None
        code, reason = asked.failure
        if self.is_lenient:
            return
        # A second process of a name looks like the restart of one that died. So a stream without a
        # token that saw this twice is taken for the cause, and who asks the same again is refused.
        is_accused = code in ("internal", "bad_request") and "request ended the targets" in reason
        assert is_accused or code in ("unavailable", "left"), f"{code}: {reason}"
        assert self.had_target_trouble or client.had_trouble, reason
        assert self.has_losses or "on the way" not in reason, reason

    # -- time --------------------------------------------------------------------------------------

    def pass_by(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.move(until)

    def go_on(self, num_moves: int) -> None:
        for _ in range(num_moves):
            self.move()

    def move(self, until: float = math.inf) -> None:
        """One move of somebody who can, or time goes on to what is due next."""
        self._tick()
        moves = list(self._moves())
        if not moves:
            self.now = min(until, self._next_event())
            return
        act, on = moves[self.random.randrange(len(moves))]
        act(on)
        self.now += _MOVE_S
        self._num_moves += 1
        if self._num_moves % _CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        check_phases(self.coordinator.state.data)
        if (status := self.status()) is not None:
            check(status)

    def status(self) -> Status | None:
        """What the coordinator tells of itself, if the admin is a member; seldom anew."""
        state = self.coordinator.state
        sent_in = state.welcome.cluster, state.welcome.epoch
        said = self.admin.connection.peer, *sent_in, StatusRequest(1)
        replies = [send.message for send in state.on_message(*said, 0, self.now)]
        return next((decode_status(m.status) for m in replies if isinstance(m, StatusReply)), None)

    def _moves(self) -> Iterator[tuple[Callable[[Any], None], Any]]:
        for connection in self.network.arrived():
            yield self._coordinator_takes, connection
        if self.planning is not None:
            # A thread makes it, while anything may come in.
            yield World.take_plan, self
        elif self.coordinator.state.is_plan_due:
            yield World.begin_plan, self
        for process in self.processes:
            if process.can_read():
                yield type(process).read, process
            if isinstance(process, NodeProcess) and process.can_step():
                yield NodeProcess.step, process

    def begin_plan(self) -> None:
        self.planning = self.coordinator.state.begin_plan(self.now)

    def take_plan(self) -> None:
        due, self.planning = self.planning, None
        assert due is not None
        target, planning = due
        self.coordinator.take_plan(target, planning.make())

    def _coordinator_takes(self, connection: Connection) -> None:
        received = Received(connection.peer, self.network.take(connection, "up"))
        # Enrolments, which would take time, do not occur here.
        self.coordinator.take(received, None)  # type: ignore[arg-type]

    def _tick_due(self) -> float:
        deadline = self.coordinator.state.next_deadline()
        due = self._ticked_at + _TICK_S
        return due if deadline is None else min(due, max(self._ticked_at + _LEAST_TICK_S, deadline))

    def _tick(self) -> None:
        if self.now >= self._tick_due():
            self._ticked_at = self.now
            self.network.tick()
            for process in self.processes:
                process.tick()
            self.processes = [p for p in self.processes if not p.has_ended]
            self.coordinator.tick()

    def _next_event(self) -> float:
        events = [self._tick_due(), self.network.next_arrival()]
        events += [process.next_read() for process in self.processes]
        events += [node.next_step() for node in self.nodes()]
        return max(self.now, min(at for at in events if at is not None))

    # -- faults ------------------------------------------------------------------------------------

    def kill(self, process: Process, *, loses: bool, notice_s: float) -> None:
        """notice_s: until the coordinator's side sees that the connection is gone."""
        self.troubled(process)
        process.connection.cut(loses=loses, gone_at=self.now + notice_s)
        process.end(loses=loses)

    def break_connection(self, process: Process, *, notice_s: float, away_s: float) -> None:
        """What is on its way is lost. away_s: until its own side has another connection."""
        self.troubled(process)
        process.connection.cut(loses=True, gone_at=self.now + notice_s)
        process.reconnects_at = self.now + away_s

    def restart_coordinator(self) -> None:
        """Another process with another epoch; what members had not sent yet goes to it."""
        self.had_target_trouble = True
        for process in self.processes:
            process.had_trouble = True
        self.network.restart()
        self.coordinator, self.planning = self._new_coordinator(), None
        for process in self.processes:
            process.come_back(carries=True)

    def start_what_is_missing(self) -> None:
        living = {process.name for process in self.processes if not process.has_ended}
        for role, of_role in (("target", self.setup.target_cells), ("draft", self.setup.drafts)):
            for index in range(len(of_role)):
                if f"{role}-{index}" not in living:
                    self.start_node(role, index)

    def upset_guesses(self) -> None:
        """Lose, repeat or delay a message with guesses: only speed may depend on it."""
        queues = [node.connection.queues["up"] for node in self.nodes("draft")]
        queues += [node.connection.queues["down"] for node in self.nodes("target")]
        found = [
            (queue, place)
            for queue in queues
            for place, (_, frames) in enumerate(queue)
            if isinstance(decode(frames).message, GuessNotice)
        ]
        if not found:
            return
        queue, place = self.random.choice(found)
        loses, repeats = self.random.choice(((True, False), (False, True), (True, True)))
        if repeats:
            queue.append(queue[place])
        if loses:
            del queue[place]

    # -- the end -----------------------------------------------------------------------------------

    def open_requests(self) -> list[Asked]:
        return [asked for client in self.clients for asked in client.open_requests()]

    def settle(self) -> None:
        """Nothing more happens: every request ends within a limit, and nothing is left of it."""
        for process in self.processes:
            process.is_stopped, process.pace_s = False, 0.0
            process.reconnects_at = self.now
        for connection in self.network.connections.values():
            connection.delay_s = 0.0
        self._end_all()
        self.pass_by(_QUIET_S)
        self.check()
        status = self.check_empty()
        names = [process.name for process in self.processes]
        assert len(names) == len(set(names)), "two processes of one name go on"
        # A node keeps what it was not told to close.
        if not (self.is_lenient or self.has_losses):
            nodes = [node.node for node in self.nodes() if node.welcome is not None]
            assert not any(node.num_streams for node in nodes), "a node still has streams"
            assert left_of_requests(self.coordinator.state, *(n.engine for n in nodes)) == set()
            assert sum(status.totals.requests.values()) == status.totals.num_submitted

    def check_empty(self) -> Status:
        status = self.status()
        assert status is not None
        check_empty(status)
        return status

    def _end_all(self) -> None:
        limit = self.now + _END_S
        while self.open_requests():
            self.move(limit)
            assert self.now < limit, f"requests never end: {self.open_requests()}"

    def check_that_it_serves(self) -> None:
        """A new process takes the place of a target, and a new client gets its text."""
        self.start_node("target", 0)
        client = self.start_client("client")
        self.pass_by(1.0)
        self.submit(client, make_submit(max_tokens=20))
        self._end_all()
        (asked,) = client.asked.values()
        assert asked.is_whole, "a mesh that has all it needs does not serve"


def _scaled(factor: float) -> NodeCosts:
    return NodeCosts(TARGET_COSTS.decode.scaled(factor), TARGET_COSTS.prefill.scaled(factor))
