"""A coordinator whose answers are timed, in a process of its own.

Reads one JSON object, a Task, from standard input, says `ready`, measures when a second line comes,
prints one JSON object, a Figures, and serves on until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from mesh.codec import decode
from mesh.transport import Frames, Received, ServerTransport
from mesh.zmq_transport import ZmqContext
from nodes.coordinator.service import Coordinator
from nodes.messages import CommitReply, DraftRequest, LeaseRequest, VerifyRequest
from policies.joint import joint_plan
from policies.plan import Observation, Plan, Policy

_NEXT = (DraftRequest, VerifyRequest, LeaseRequest)
Times = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Task:
    """planner: live, or stored: the first plan for each set of streams again and again."""

    listen: str
    planner: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Each a list of (wall seconds, processor seconds).

    first, last: from a CommitReply that was read until the first and the last message that sends
    streams on was handed over. handled: until all is done that follows from it. plans: of the
    planner alone.
    """

    first: Times
    last: Times
    handled: Times
    plans: Times


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def _since(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return b[0] - a[0], b[1] - a[1]


@dataclass(slots=True)
class _Turn:
    """A message that was read and what was sent before the next one was asked for."""

    frames: Frames
    began: tuple[float, float]
    sent: list[tuple[Frames, tuple[float, float]]]
    ended: tuple[float, float]


class TimedTransport:
    """A server's transport that notes when what came and went; it counts nothing."""

    bytes_sent = bytes_received = messages_sent = messages_received = messages_rejected = 0

    def __init__(self, inner: ServerTransport) -> None:
        self._inner = inner
        self.endpoint = inner.endpoint
        self.turns: list[_Turn] = []
        self._turn: _Turn | None = None

    async def recv(self) -> Received:
        if self._turn is not None:
            self._turn.ended = _now()
            self.turns.append(self._turn)
            self._turn = None
        received = await self._inner.recv()
        began = _now()
        self._turn = _Turn(received.frames, began, [], began)
        return received

    async def lost_peers(self) -> list[bytes]:
        return await self._inner.lost_peers()

    def quiet_s(self, peer: bytes) -> float | None:
        return self._inner.quiet_s(peer)

    def send(self, peer: bytes, frames: Frames) -> None:
        self._inner.send(peer, frames)
        if self._turn is not None:
            self._turn.sent.append((frames, _now()))

    def close(self) -> None:
        self._inner.close()


def figures(turns: list[_Turn], plans: Times) -> Figures:
    """What followed each CommitReply."""
    made = Figures([], [], [], plans)
    for turn in turns:
        if not isinstance(decode(turn.frames).message, CommitReply):
            continue
        made.handled.append(_since(turn.began, turn.ended))
        on = [at for frames, at in turn.sent if isinstance(decode(frames).message, _NEXT)]
        if on:
            made.first.append(_since(turn.began, on[0]))
            made.last.append(_since(turn.began, on[-1]))
    return made


def timed(policy: Policy, plans: Times) -> Policy:
    def plan(observation: Observation) -> Plan:
        began = _now()
        made = policy(observation)
        plans.append(_since(began, _now()))
        return made

    return plan


def stored(policy: Policy) -> Policy:
    """Plans once for each set of streams and what of them can guess."""
    known: dict[object, Plan] = {}

    def plan(observation: Observation) -> Plan:
        streams = tuple((v.stream_id, v.draft is not None) for v in observation.streams)
        if streams not in known:
            known[streams] = policy(observation)
        return known[streams]

    return plan


POLICIES: dict[str, Callable[[], Policy]] = {
    "live": lambda: joint_plan,
    "stored": lambda: stored(joint_plan),
}


async def serve(task: Task) -> None:
    plans: Times = []
    with ZmqContext() as context:
        transport = TimedTransport(context.bind(task.listen))
        policy = timed(POLICIES[task.planner](), plans)
        coordinator = Coordinator(transport, policy)
        serving = asyncio.create_task(coordinator.run())
        try:
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            transport.turns.clear()
            plans.clear()
            await asyncio.sleep(task.seconds)
            print(json.dumps(asdict(figures(transport.turns, plans))), flush=True)
            await serving
        finally:
            coordinator.say_bye()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def main() -> None:
    task = Task(**json.loads(sys.stdin.readline()))
    asyncio.run(serve(task))


if __name__ == "__main__":
    main()
