"""The coordinator's state with several targets that join, leave and die, and no sockets or clocks.

Who moves next is chosen from outside. Requests go from target to target on the way, and from one
coordinator to the next; what their client takes is compared with what each choice becomes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mesh.messages import PROTOCOL_VERSION, Bye, Hello, Ping, Pong, Welcome
from nodes.coordinator.members.record import PROGRESS_TIMEOUT_S
from nodes.coordinator.placing.rebalancing import LOOK_S, Move
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.coordinator.sends import Send
from nodes.coordinator.state import CoordinatorState, DuePlan
from nodes.messages import (
    CommitReply,
    GuessNotice,
    LeaseRequest,
    NodeCommandReply,
    NodeCommandRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StreamReadyNotice,
    TokenizeReply,
    TokenizeRequest,
)
from nodes.scheduler.planning import MODES, Mode
from nodes.scheduler.silences import LOOK_S as LOOK_EACH_S
from nodes.telemetry.status import Status, decode_status, encode_status
from nodes.worker.cells import cells_needed
from nodes.worker.profile import encode_profile
from policies.latency import NodeCosts
from tests.nodes.cluster_case import ClusterCase, NodeProcess
from tests.nodes.pure_client import PureClient
from tests.nodes.pure_mesh import (
    DRAFT_COSTS,
    TARGET_COSTS,
    Chooser,
)
from tests.nodes.pure_node import PureNode
from tests.nodes.wild_policy import WildPolicy

CLIENT, ADMIN = b"client", b"admin"
_MAX_MOVES = 60_000
_RARE_ONE_IN = 24
# Messages that may be lost between the coordinator and a node that is there, and how often.
_LOSSY = (
    *(OpenStreamRequest, StreamReadyNotice, LeaseRequest, GuessNotice, CommitReply),
    *(TokenizeRequest, TokenizeReply),
)
_LOST_ONE_IN = 12
_MOVE_S = 1e-4
# Targets differ, and what is learnt of them makes them differ more.
_SPEEDS = (1.0, 3.0, 0.4)
_PASS_S = (0.0, 1e-3, 2e-2)


class PureCluster:
    """Runs a case to its end and checks law 1 on the way."""

    def __init__(self, case: ClusterCase) -> None:
        self.case = case
        self.choose = Chooser(case.moves, case.move_seed)
        self.now = 0.0
        self.state = self._new_state()
        self.planning: DuePlan | None = None
        self.num_joins = self.num_moved = 0
        self.lost_left = case.num_lost
        self._heard_at = 0.0
        self.targets = [
            NodeProcess(f"target-{i}", "target", _scaled(_SPEEDS[i]))
            for i in range(case.num_targets)
        ]
        self.drafts = [
            NodeProcess(f"draft-{i}", "draft", DRAFT_COSTS) for i in range(len(case.drafts))
        ]
        self.nodes = [*self.targets, *self.drafts]
        say = partial(self._say, CLIENT)
        self.client = PureClient(case, self.choose, say, self._request_failed)
        self.deaths_left, self.draft_deaths_left = case.num_deaths, case.num_draft_deaths
        self.moves_left, self.commands_left = case.num_moves, case.num_commands
        self.restarts_left = case.num_restarts
        self._join_clients()
        self._start(self.targets[0])
        for node, draft in zip(self.drafts, case.drafts, strict=True):
            if draft.starts_alive:
                self._start(node)

    def _new_state(self) -> CoordinatorState:
        mode = MODES["auto"]
        if self.case.has_wild_policy:
            mode = Mode(WildPolicy(self.choose.below), (None, True)[self.choose.below(2)])
        return CoordinatorState(
            mode,
            cluster="",
            epoch=0,
            heartbeat_interval_s=1e9,
            heartbeat_timeout_s=1e9,
            lookup=self.case.has_lookup,
            plans_later=self.case.plans_later,
        )

    def _join_clients(self) -> None:
        self._say(CLIENT, Hello("client", self.case.role, 1, PROTOCOL_VERSION, b""))
        self._say(ADMIN, Hello("admin", "admin", 2, PROTOCOL_VERSION, b""))

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(_MAX_MOVES):
            self.now += _MOVE_S
            moves, rare = self._moves(), self._rare_moves()
            if rare and self.choose.below(_RARE_ONE_IN) == 0:
                rare[self.choose.below(len(rare))]()
            elif moves:
                moves[self.choose.below(len(moves))]()
            elif (next_step := self._next_step()) is not None:
                self.now = next_step
            elif (deadline := self.state.next_deadline()) is not None:
                self._tick(deadline)
            elif self._has_requests() and (gone := [n for n in self.targets if not n.peer]):
                # Some requests may wait for one of them alone.
                self._start(gone[0])
            elif self.lost_left < self.case.num_lost and self._has_requests():
                # What was lost shows by silence.
                self._tick(self.now + LOOK_EACH_S)
            elif self._is_draining():
                # The empty ones leave.
                self._tick(self.now + STRANDED_LIMIT_S / 100)
            else:
                break
        else:
            raise AssertionError("the run does not end")
        self._check_end()

    def _next_step(self) -> float | None:
        """When a node makes a pass that waits for the one before it, or for guesses."""
        engines = [node.engine for node in self._alive(self.nodes) if node.engine is not None]
        times = [engine.next_step(self.now) for engine in engines]
        return min((each for each in times if each is not None), default=None)

    def _has_requests(self) -> bool:
        waiting = self.client.to_submit or self.client.uploads
        return bool(waiting or self.state._serving.ledger.requests)

    def _is_draining(self) -> bool:
        return any(record.is_draining for record in self.state._roster.nodes())

    def _alive(self, nodes: Sequence[NodeProcess]) -> list[NodeProcess]:
        return [node for node in nodes if node.peer]

    def _moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        client = self.client
        if client.inbox:
            moves.append(client.read)
        if any(not node.is_draining for node, _ in self.state._roster.schedulers()):
            moves += [client.submit] if client.to_submit else []
            moves += [partial(client.upload, index) for index in client.uploads]
        if self.planning is not None or self.state.is_plan_due:
            moves.append(self._coordinator_plans)
        for node in self._alive(self.nodes):
            if node.inbox:
                moves.append(partial(self._node_takes, node))
            if node.outbox:
                moves.append(partial(self._coordinator_takes, node))
            next_step = node.engine.next_step(self.now) if node.engine is not None else None
            if next_step is not None and next_step <= self.now:
                moves.append(partial(self._node_steps, node))
        return moves

    def _rare_moves(self) -> list[Callable[[], None]]:
        if not (self.state._serving.ledger.requests or self.client.uploads):
            return []
        moves: list[Callable[[], None]] = []
        moves += [partial(self._start, node) for node in self.nodes if not node.peer]
        if self.restarts_left:
            moves.append(self._restart)
        if self.deaths_left:
            moves += [partial(self._die, node) for node in self._alive(self.targets)]
        if self.draft_deaths_left:
            moves += [partial(self._die, node) for node in self._alive(self.drafts)]
        if self.moves_left:
            moves += [self._force_a_move, partial(self._look_around)]
        if self.commands_left:
            commands = ("drain", "drain", "undrain", "drop")
            moves += [partial(self._command, c, n) for c in commands for n in self.nodes]
        client = self.client
        moves += [partial(client.cancel, i) for i in client.to_cancel if i not in client.to_submit]
        return moves

    def _tick(self, now: float) -> None:
        self.now = max(self.now, now)
        if self.now - self._heard_at > PROGRESS_TIMEOUT_S / 2:
            self._heard_at = self.now
            for peer in [CLIENT, ADMIN, *(node.peer for node in self._alive(self.nodes))]:
                self._say(peer, Pong(0, round(self.now)))
        self._relent()
        self._carry_out(self.state.tick(self.now))
        self._status()

    def _status(self) -> Status:
        """What the coordinator would tell, in whatever state it is."""
        status = self.state._reporting.status(0, 0, self.now)
        assert decode_status(encode_status(status)) == status
        assert status.num_streams == len(status.streams)
        return status

    def _relent(self) -> None:
        """Take drained targets back before what waits for them is given up."""
        requests = self.state._serving.ledger.requests.values()
        since = [r.stranded_at for r in requests if r.stranded_at is not None]
        if since and self.now - min(since) > STRANDED_LIMIT_S / 2:
            for record in self.state._roster.nodes("target"):
                if record.is_draining:
                    self._say(ADMIN, NodeCommandRequest(2, "undrain", record.name))

    def _look_around(self) -> None:
        """Time for the coordinator to see who is better off elsewhere."""
        self.moves_left -= 1
        self._tick(self.now + LOOK_S)

    def _force_a_move(self) -> None:
        """As if it were better for a request to be elsewhere."""
        serving = self.state._serving
        found: list[Move] = []
        for request in serving.ledger.requests.values():
            for target in self.state._roster.nodes("target"):
                choices = tuple(
                    c for c in request.choices.values() if c.target not in ("", target.name)
                )
                cells = sum(cells_needed(choice.spec) for choice in choices)
                if choices and target.has_room(cells, len(choices)):
                    found.append(Move(request, choices, target, 0.0))
        if found:
            self.moves_left -= 1
            self.num_moved += 1
            self._carry_out(serving._move(found[self.choose.below(len(found))], self.now))

    def _command(self, command: str, node: NodeProcess) -> None:
        """Of an operator; a drop counts as a death of the target."""
        if command == "drop" and node.role == "target":
            if not self.deaths_left:
                return
            self.deaths_left -= 1
        self.commands_left -= 1
        self._say(ADMIN, NodeCommandRequest(1, command, node.name))

    # -- members -----------------------------------------------------------------------------------

    def _start(self, node: NodeProcess) -> None:
        """A new process, or one whose connection broke: it goes on until it is welcomed."""
        self.num_joins += 1
        node.peer = b"%d" % self.num_joins
        if node.engine is None:
            config = self.case.target
            if node.role == "draft":
                draft = self.case.drafts[self.drafts.index(node)]
                config = replace(
                    config,
                    agreement=draft.agreement,
                    num_cells=draft.num_cells,
                    max_sequences=draft.max_sequences,
                    max_batch_tokens=draft.max_batch_tokens,
                )
            node.engine = PureNode(node.role, config, self._tokenized, self._pass_s)
        info = node.engine.model.info
        profile = encode_profile(info, node.costs)
        node.is_in = False
        hello = Hello(node.name, node.role, self.num_joins, PROTOCOL_VERSION, profile)
        self._say(node.peer, hello)

    def _die(self, node: NodeProcess) -> None:
        """The process dies, says bye, or only its connection breaks: then it still says it all.
        Or it is there again before anybody has noticed."""
        if node.role == "target":
            self.deaths_left -= 1
        else:
            self.draft_deaths_left -= 1
        peer, node.peer = node.peer, b""
        node.inbox.clear()
        how = self.choose.below(4)
        if how == 0:
            self._say(peer, Bye("over"))
        elif how != 3:
            self._carry_out(self.state.peer_gone(peer, self.now))
        if how != 2:
            node.engine = None
            node.outbox.clear()
        if how == 3:
            self._start(node)

    def _restart(self) -> None:
        """The coordinator dies, and what was on its way with it; another one knows of nothing."""
        self.restarts_left -= 1
        self.client.lose_coordinator()
        for node in self.nodes:
            # They say hello when they have noticed.
            node.peer, node.is_of_old_epoch = b"", True
            node.inbox.clear()
            node.outbox.clear()
        self.state, self.planning = self._new_state(), None
        self._join_clients()
        self.client.resume()

    def _say(self, peer: bytes, message: Any) -> None:
        self._carry_out(self.state.on_message(peer, "", 0, message, 0, self.now))

    def _carry_out(self, sends: Sequence[Send]) -> None:
        self._hand_over(sends)

    def _coordinator_plans(self) -> None:
        """Begin a plan, or take the one that was begun: much may have come in since."""
        due, self.planning = self.planning, None
        if due is None:
            self.planning = self.state.begin_plan(self.now)
        else:
            self._hand_over(self.state.take_plan(due, due.planning.make(), self.now))

    def _hand_over(self, sends: Sequence[Send]) -> None:
        for send in sends:
            if send.peer == ADMIN:
                assert isinstance(send.message, Welcome | NodeCommandReply | Ping)
            if send.peer == CLIENT:
                self.client.inbox.append(send.message)
            for node in self.nodes:
                is_for_it = node.peer == send.peer and not isinstance(send.message, Ping)
                if is_for_it and not self._is_lost(send.message):
                    node.inbox.append(send.message)

    def _is_lost(self, message: Any) -> bool:
        if not self.lost_left or not isinstance(message, _LOSSY):
            return False
        is_lost = self.choose.below(_LOST_ONE_IN) == 0
        self.lost_left -= is_lost
        return is_lost

    def _coordinator_takes(self, node: NodeProcess) -> None:
        message = node.outbox.popleft()
        if not self._is_lost(message):
            self._say(node.peer, message)

    def _request_failed(self, message: RequestFailedNotice) -> None:
        raise AssertionError(f"unexpected {message}")

    def _check_end(self) -> None:
        assert not self.client.to_submit
        assert set(self.client.ended) == set(self.client.token_ids), "choices never end"
        serving = self.state._serving
        assert serving.ledger.requests == {} == serving.ledger.streams
        assert len(serving.placement.waiting) == 0
        assert not any(draft.followed for draft in self.state._drafts)
        for record in self.state._roster.nodes("target"):
            assert (record.used_cells, len(record.scheduler.streams)) == (0, 0)  # type: ignore[union-attr]
        for node in self._alive(self.nodes):
            assert node.engine is not None
            assert node.engine.num_streams == 0
        assert self.state._uploads.num_under_way == 0
        assert len(serving.ledger.tokenizing) == len(serving.ledger.deadlines) == 0
        assert self.client.journals == {}
        status = self._status()
        if self.restarts_left < self.case.num_restarts:
            # The others have counted some of it.
            return
        # Every token that a client was told has been counted once, wherever it came from.
        counted = sum(sum(target.counts.tokens.values()) for target in status.targets)
        assert counted == sum(map(len, self.client.token_ids.values()))
        assert sum(status.totals.requests.values()) == self.client.num_submitted
        assert status.totals.num_submitted == self.client.num_submitted

    # -- nodes -------------------------------------------------------------------------------------

    def _node_takes(self, node: NodeProcess) -> None:
        message = node.inbox.popleft()
        if not node.is_in and not isinstance(message, Welcome | Bye):
            return
        if isinstance(message, Bye):
            # Told to leave: the process ends, another may be started.
            node.peer, node.engine = b"", None
            node.inbox.clear()
            node.outbox.clear()
            return
        assert node.engine is not None
        if isinstance(message, Welcome):
            node.is_in, node.is_of_old_epoch = True, False
            node.engine.forget_all()
        else:
            self._node_says(node, node.engine.take(message))

    def _node_steps(self, node: NodeProcess) -> None:
        assert node.engine is not None
        self._node_says(node, node.engine.step(self.now))

    @staticmethod
    def _node_says(node: NodeProcess, messages: Sequence[Any]) -> None:
        if not node.is_of_old_epoch:
            node.outbox += messages

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return self.case.streams[int(text)].prompt

    def _pass_s(self) -> float:
        return _PASS_S[self.choose.below(len(_PASS_S))]


def _scaled(factor: float) -> NodeCosts:
    return NodeCosts(TARGET_COSTS.decode.scaled(factor), TARGET_COSTS.prefill.scaled(factor))
