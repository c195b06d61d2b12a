"""A coordinator whose answers are timed, in a process of its own.

Reads one JSON object, a Task, from standard input, says `ready`, measures when a second line comes,
prints one JSON object, a Figures, and serves on until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from mesh.codec import decode
from mesh.transport import Frames, Received, ServerTransport
from mesh.zmq_transport import ZmqContext
from nodes.coordinator.service import Coordinator
from nodes.messages import CommitReply, DraftRequest, LeaseRequest, VerifyRequest
from policies.joint import joint_plan
from policies.plan import Observation, Plan, Policy

_NEXT = (DraftRequest, VerifyRequest, LeaseRequest)
At = tuple[float, float]
Times = list[At]


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
    one of its streams on was handed over, plans between them included. handled: until the next
    message may be read. plans: of the planner alone.
    """

    first: Times
    last: Times
    handled: Times
    plans: Times


def _now() -> At:
    return time.perf_counter(), time.thread_time()


def _since(a: At, b: At) -> At:
    return b[0] - a[0], b[1] - a[1]


@dataclass(slots=True)
class Event:
    """A message that was read, until the next one was asked for, or one that was sent, at `began`.

    ended: None for one that was sent, and for one that is still dealt with.
    """

    frames: Frames
    began: At
    is_sent: bool = False
    ended: At | None = None


class TimedTransport:
    """A server's transport that notes when what came and went; it counts nothing."""

    bytes_sent = bytes_received = messages_sent = messages_received = messages_rejected = 0

    def __init__(self, inner: ServerTransport) -> None:
        self._inner = inner
        self.endpoint = inner.endpoint
        self.events: list[Event] = []
        self._reading: Event | None = None

    async def recv(self) -> Received:
        if self._reading is not None:
            self._reading.ended = _now()
            self._reading = None
        received = await self._inner.recv()
        self._reading = Event(received.frames, _now())
        self.events.append(self._reading)
        return received

    async def lost_peers(self) -> list[bytes]:
        return await self._inner.lost_peers()

    def quiet_s(self, peer: bytes) -> float | None:
        return self._inner.quiet_s(peer)

    def send(self, peer: bytes, frames: Frames) -> None:
        self._inner.send(peer, frames)
        self.events.append(Event(frames, _now(), is_sent=True))

    def close(self) -> None:
        self._inner.close()


def figures(events: Sequence[Event], plans: Times) -> Figures:
    """What followed each CommitReply: at once, or when a plan let its streams go on."""
    made = Figures([], [], [], plans)
    # When each stream's last commit was read; and of each commit, what its streams waited for.
    since: dict[int, At] = {}
    waited: dict[At, Times] = {}
    for event in events:
        message = decode(event.frames).message
        if isinstance(message, CommitReply) and not event.is_sent:
            since.update(dict.fromkeys((e.stream_id for e in message.entries), event.began))
            if event.ended is not None:
                made.handled.append(_since(event.began, event.ended))
        elif isinstance(message, _NEXT) and event.is_sent:
            for entry in message.entries:
                if (began := since.pop(entry.stream_id, None)) is not None:
                    waited.setdefault(began, []).append(_since(began, event.began))
    for times in waited.values():
        made.first.append(times[0])
        made.last.append(times[-1])
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
            transport.events.clear()
            plans.clear()
            await asyncio.sleep(task.seconds)
            print(json.dumps(asdict(figures(transport.events, plans))), flush=True)
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
