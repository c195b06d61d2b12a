"""A bare ZeroMQ relay under the messages of a mesh, to compare a coordinator's delay with.

    python -m bench.live.relay ENDPOINT KEYS relay|traffic ...

The relay sends each message on to the peer that its first frame names, and does nothing else. The
traffic has the messages of `live scale`: their numbers, sizes and times, without their contents.
bench/live/probe.py measures the relay's delays as it does those of a coordinator.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from heapq import heapify, heapreplace
from typing import Any, NoReturn

import zmq

from bench.harness.fleet import Fleet, Setup, fleet
from mesh.codec import encode
from nodes.messages import ChainPart, CommitEntry, CommitNotice, CommitReply, GuessNotice
from nodes.messages.nodes import AddedEntry

_IDS, _LENGTH = range(1_000, 1_512), 800


@dataclass(frozen=True, slots=True)
class Traffic:
    """num_targets targets of num_streams streams each, and as many draft nodes."""

    num_targets: int
    num_streams: int
    gamma: int
    pass_s: float

    def messages(self) -> Iterator[tuple[float, str, str, list[bytes]]]:
        """Yields what is sent again and again: seconds between two, sender, receiver, frames."""
        ids, num = _IDS[: self.num_streams], self.gamma + 1
        token_ids = (500,) * num * len(ids)
        entries = [CommitEntry(s, 1, _LENGTH, num, num, num, "", b" a" * num) for s in ids]
        reply = encode(CommitReply(self.pass_s, tuple(entries), token_ids))
        added = tuple(AddedEntry(s, 1, _LENGTH, num) for s in ids)
        notice = encode(CommitNotice(added, token_ids, 0))
        parts = tuple(ChainPart(s, 1, 1, _LENGTH, b"x") for s in ids)
        guesses = encode(GuessNotice(parts, (500,) * len(ids), 1000))
        for k in range(self.num_targets):
            yield self.pass_s, f"target-{k}", "client", reply
            yield self.pass_s, f"target-{k}", f"draft-{k}", notice
            yield self.pass_s / 2, f"draft-{k}", f"target-{k}", guesses


async def relayed(core: int, traffic: Traffic, seconds: float) -> list[float]:
    """Returns the delays of a bare relay on the core under this traffic, in seconds."""
    async with fleet(Setup(over="ipc"), starts=()) as mesh:

        async def start(name: str, module: str, *arguments: object) -> None:
            mesh.start_module(name, f"bench.live.{module}", *arguments)
            await mesh.has_printed(name)

        await start("relay", "relay", "relay")
        os.sched_setaffinity(mesh.process("relay").pid, {core})
        await start("traffic", "relay", "traffic", json.dumps(asdict(traffic)))
        await start("probe", "probe", seconds, "--bare")
        return list((await probed(mesh))["delays_s"])


async def probed(mesh: Fleet) -> dict[str, Any]:
    """Let the probe of a fleet measure, and return what it has found."""
    mesh.expect_end("probe")
    probe = mesh.process("probe")
    probe.signal(signal.SIGUSR1)
    await probe.ended.wait()
    found: dict[str, Any] = json.loads(mesh.log("probe").read_text().splitlines()[-1])
    return found


def relay(endpoint: str) -> NoReturn:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        print(flush=True)
        while True:
            sender, receiver, *payload = socket.recv_multipart()
            socket.send_multipart([receiver or sender, *payload])


def send_traffic(endpoint: str, traffic: Traffic) -> None:
    """Send the traffic until the process is ended."""
    with zmq.Context() as context:
        sockets: dict[str, zmq.Socket[bytes]] = {}
        messages = list(traffic.messages())
        for name in ["client", *{sender for _, sender, _, _ in messages}]:
            sockets[name] = context.socket(zmq.DEALER)
            sockets[name].setsockopt(zmq.IDENTITY, name.encode())
            sockets[name].connect(endpoint)
            sockets[name].send_multipart([b"", b""])
        start = time.perf_counter()
        due = [(start + k * every_s / len(messages), k) for k, (every_s, *_) in enumerate(messages)]
        heapify(due)
        print(flush=True)
        while True:
            at, k = due[0]
            time.sleep(max(0.0, at - time.perf_counter()))
            every_s, sender, receiver, frames = messages[k]
            sockets[sender].send_multipart([receiver.encode(), *frames])
            heapreplace(due, (at + every_s, k))
            for socket in sockets.values():
                while socket.poll(0):
                    socket.recv_multipart()


def main(endpoint: str, _keys: str, what: str, traffic: str = "") -> None:
    if what == "relay":
        relay(endpoint)
    send_traffic(endpoint, Traffic(**json.loads(traffic)))


if __name__ == "__main__":
    main(*sys.argv[1:])
