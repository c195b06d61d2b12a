"""Growth of the coordinator's costs over many cells, in virtual time and real processor time.

Each cell has a target, draft nodes and 16 streams. The coordinator's whole pure state runs, with
the live planner and the codec of the wire, but without sockets. Nodes look their tokens up, and
their costs are not counted. `apart`: each cell has models of its own, so that cells share only the
event loop, the roster and the journal. `together`: all cells have the same models, so that
placement and draft nodes form one pool.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bench.live.light_nodes import LightDraft, LightTarget, light_profile
from mesh.codec import decode, encode
from mesh.messages import PROTOCOL_VERSION, Hello, Ping, Pong
from nodes.config.settings import LimitSettings
from nodes.coordinator.sends import Send
from nodes.coordinator.state import CoordinatorState
from nodes.messages import CommitReply, GuessNotice, SubmitRequest
from nodes.scheduler.planning import Mode
from policies.joint import joint_plan
from policies.plan import Observation, Plan

Kind = Literal["apart", "together"]
STREAMS_A_CELL = 16
_DRAFTS_A_CELL = 2
_PASS_S, _DRAFT_S = 0.04, 0.02
_TO_TARGET_S, _TO_DRAFT_S = 2e-4, 2e-3
_TICK_S, _LEAST_TICK_S = 0.05, 0.001
_CLUSTER, _EPOCH = "growth", 1
_MAX_TOKENS = 100_000
_RUNNING = "state", "codec", "planner", "tick"
_STEPS = *_RUNNING, "joining", "admission"


@dataclass(frozen=True, slots=True)
class Grown:
    """Figures of one size. num_passes: passes, counted for each stream alone. seconds: processor
    time by step while measured; for joining and admission, that of all nodes and all requests.
    bytes: resident memory that the mesh added.
    """

    kind: Kind
    num_streams: int
    num_cells: int
    virtual_s: float
    num_passes: int
    num_plans: int
    seconds: dict[str, float]
    bytes: int

    @property
    def passes_per_s(self) -> float:
        return self.num_passes / self.virtual_s

    @property
    def num_cores(self) -> float:
        """Processor seconds per second of virtual time."""
        return sum(self.seconds[name] for name in _RUNNING) / self.virtual_s

    def row(self) -> str:
        per_pass_us = {
            name: 1e6 * self.seconds[name] / max(1, self.num_passes) for name in _RUNNING
        }
        cells = [
            self.kind,
            f"{self.num_streams:,}",
            f"{self.num_cells:,}",
            f"{self.passes_per_s:,.0f}",
            *(f"{us:.0f}" for us in per_pass_us.values()),
            f"{1e3 * self.seconds['planner'] / max(1, self.num_plans):.2f}",
            f"{self.num_cores:.2f}",
            f"{1e3 * self.seconds['admission'] / self.num_streams:.2f}",
            f"{1e3 * self.seconds['joining'] / (self.num_cells * (1 + _DRAFTS_A_CELL)):.2f}",
            f"{self.bytes / 1024 / self.num_streams:.0f}",
        ]
        return "| " + " | ".join(cells) + " |"


HEAD = (
    "| cells | streams | number of cells | stream passes/s | state, us a pass | codec | planner | "
    "ticks | ms a plan | cores | ms to admit a stream | ms to join a node | KiB a stream |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(slots=True)
class _Node:
    """A node that looks its tokens up. delay_s: delay of a message to it or from it."""

    name: str
    state: LightTarget | LightDraft
    pass_s: float
    delay_s: float
    is_busy: bool = False


@dataclass(slots=True)
class _Costs:
    """Processor seconds by step."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STEPS, 0.0))

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[step] += time.process_time() - began


class CellsWorld:
    """Cells under one coordinator."""

    def __init__(self, num_cells: int, kind: Kind) -> None:
        self._costs = _Costs()
        self.now = 0.0
        self.num_passes = self.num_plans = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._nodes: dict[bytes, _Node] = {}
        self._num_cells = num_cells
        self._step = "joining"
        self._state = CoordinatorState(
            Mode(self._plan),
            cluster=_CLUSTER,
            epoch=_EPOCH,
            heartbeat_interval_s=0.5,
            heartbeat_timeout_s=5.0,
            limits=LimitSettings(max_waiting=1 << 20),
            plans_later=True,
        )
        for cell in range(num_cells):
            family = f"cell-{cell}" if kind == "apart" else "all"
            self._join(f"target-{cell}", "target", family)
            for number in range(_DRAFTS_A_CELL):
                self._join(f"draft-{cell}-{number}", "draft", family)
        # Targets get no stream before they have answered their probes, so finish these first.
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self._step = "admission"
        for cell in range(num_cells):
            peer = f"client-{cell}"
            self._hear(peer.encode(), Hello(peer, "client", 1, PROTOCOL_VERSION, b""))
            # Requests name their cell's model if cells are apart; otherwise any target serves them.
            model = f"cell-{cell}-target" if kind == "apart" else ""
            for number in range(STREAMS_A_CELL):
                self._hear(peer.encode(), _submit(number, model))
        self._step = "state"
        self._at(self.now + _TICK_S, self._tick)

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = until_s

    def measured(self, settle_s: float, virtual_s: float, kind: Kind, own_bytes: int) -> Grown:
        """Run for settle_s seconds, then measure virtual_s seconds and return the figures.

        Raises RuntimeError if some streams have no target.
        """
        self.run(settle_s)
        before, began = dict(self._costs.seconds), (self.num_passes, self.num_plans)
        self.run(settle_s + virtual_s)
        spent = {name: s - before[name] for name, s in self._costs.seconds.items()}
        whole = {name: before[name] for name in ("joining", "admission")}
        num_streams = self._num_cells * STREAMS_A_CELL
        num_served = sum(len(scheduler.streams) for scheduler in self._state.schedulers)
        if num_served != num_streams:
            raise RuntimeError(f"{num_served} of {num_streams} streams have a target")
        gc.collect()
        return Grown(
            kind,
            num_streams,
            self._num_cells,
            virtual_s,
            self.num_passes - began[0],
            self.num_plans - began[1],
            spent | whole,
            _resident() - own_bytes,
        )

    # -- the coordinator ---------------------------------------------------------------------------

    def _plan(self, observation: Observation) -> Plan:
        self.num_plans += 1
        began = time.process_time()
        plan = joint_plan(observation)
        took_s = time.process_time() - began
        self._costs.seconds["planner"] += took_s
        # The planner runs within a step, whose time must not include it.
        self._costs.seconds[self._step] -= took_s
        return plan

    def _hear(self, peer: bytes, message: Any) -> None:
        frames = encode(message, cluster=_CLUSTER, epoch=_EPOCH)
        with self._costs.of("codec"):
            decode(frames)
        if isinstance(message, CommitReply):
            self.num_passes += len(message.entries)
        num_bytes = sum(map(len, frames))
        with self._costs.of(self._step):
            heard = self._state.on_message(peer, _CLUSTER, _EPOCH, message, num_bytes, self.now)
        self._send(heard)
        self._plan_anew()

    def _plan_anew(self) -> None:
        while self._state.is_plan_due:
            with self._costs.of(self._step):
                planned = self._state.plan_anew(self.now)
            self._send(planned)

    def _tick(self) -> None:
        step, self._step = self._step, "tick"
        with self._costs.of("tick"):
            sends = self._state.tick(self.now)
            deadline = self._state.next_deadline()
        self._step = step
        self._send(sends)
        self._plan_anew()
        wait_s = _TICK_S if deadline is None else deadline - self.now
        self._at(self.now + min(_TICK_S, max(_LEAST_TICK_S, wait_s)), self._tick)

    def _send(self, sends: Sequence[Send]) -> None:
        # Reading the clock costs a microsecond, so it is read once for all messages.
        with self._costs.of("codec"):
            frames = [encode(send.message, cluster=_CLUSTER, epoch=_EPOCH) for send in sends]
        with self._costs.of(self._step):
            for send, parts in zip(sends, frames, strict=True):
                self._state.sent(send, sum(map(len, parts)), self.now)
        for send in sends:
            node = self._nodes.get(send.peer)
            if node is not None:
                arrives_s = self.now + node.delay_s
                self._at(arrives_s, partial(self._to_node, send.peer, node, send.message))
            elif isinstance(send.message, Ping):
                self._at(self.now, partial(self._hear, send.peer, Pong(send.message.seq, 0)))

    # -- nodes -------------------------------------------------------------------------------------

    def _join(self, name: str, role: str, family: str) -> None:
        is_target = role == "target"
        pass_s = _PASS_S if is_target else _DRAFT_S
        state = LightTarget() if is_target else LightDraft()
        delay_s = _TO_TARGET_S if is_target else _TO_DRAFT_S
        self._nodes[name.encode()] = _Node(name, state, pass_s, delay_s)
        profile = light_profile(role, pass_s, family)
        self._hear(name.encode(), Hello(name, role, 1, PROTOCOL_VERSION, profile))

    def _to_node(self, peer: bytes, node: _Node, message: Any) -> None:
        if isinstance(message, Ping):
            pong = Pong(message.seq, self.num_passes)
            self._at(self.now + node.delay_s, partial(self._hear, peer, pong))
            return
        for answer in node.state.hear(message):
            self._at(self.now + node.delay_s, partial(self._hear, peer, answer))
        self._go_on(peer, node)

    def _go_on(self, peer: bytes, node: _Node) -> None:
        if not node.is_busy and node.state.has_work:
            node.is_busy = True
            self._at(self.now + node.pass_s, partial(self._pass_done, peer, node))

    def _pass_done(self, peer: bytes, node: _Node) -> None:
        node.is_busy = False
        reply: CommitReply | GuessNotice = node.state.run_pass(node.pass_s)
        self._at(self.now + node.delay_s, partial(self._hear, peer, reply))
        self._go_on(peer, node)

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), action))


def _submit(number: int, model: str) -> SubmitRequest:
    return SubmitRequest(
        request_id=number + 1,
        prompt="",
        num_choices=1,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        seed=number,
        max_tokens=_MAX_TOKENS,
        stops=(),
        ignore_eog=True,
        gamma=-1,
        priority=5,
        prompt_token_ids=(number + 1,) * 32,
        model=model,
    )


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def grow(num_streams: int, kind: Kind, settle_s: float, virtual_s: float) -> Grown:
    """Measure one size in this process."""
    gc.collect()
    before = _resident()
    num_cells = -(-num_streams // STREAMS_A_CELL)
    return CellsWorld(num_cells, kind).measured(settle_s, virtual_s, kind, before)


def grow_apart(num_streams: int, kind: Kind, settle_s: float, virtual_s: float) -> Grown:
    """Measure one size in a process of its own, whose memory then belongs to this size alone."""
    arguments = str(num_streams), kind, str(settle_s), str(virtual_s)
    command = [sys.executable, "-m", "bench.sim.growth", *arguments]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Grown(**json.loads(made.stdout))


def main() -> None:
    num_streams, given, settle_s, virtual_s = sys.argv[1:]
    kind: Kind = "apart" if given == "apart" else "together"
    print(json.dumps(asdict(grow(int(num_streams), kind, float(settle_s), float(virtual_s)))))


if __name__ == "__main__":
    main()
