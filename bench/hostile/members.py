"""Hostile members of a mesh: a key of each role that sends generated messages, and far too much."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any, Final

import zmq

from airdraft.mesh.codec import encode
from airdraft.mesh.errors import BackpressureError
from airdraft.mesh.messages import Bye, Hello, Welcome
from airdraft.mesh.security import client_options
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.coordinator.dispatch import kinds_of
from airdraft.nodes.engine.load import TOY_COSTS
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.nodes.keys.keyring import Keyring
from airdraft.nodes.messages import NodesRequest, SubmitRequest
from airdraft.nodes.worker.connection import Connection
from airdraft.nodes.worker.profile import encode_profile
from bench.harness.processes import beside
from bench.hostile.frames import Generator
from bench.hostile.items import Outcome

# The roles whose members send messages, by the names of their keys.
SENDERS: Final = {f"evil-{role}": role for role in ("client", "gateway", "draft", "target")}
# A key whose connection was cut gets no other for a minute, so each flood has the next one.
_FLOODERS: Final = [f"evil-flood-{number}" for number in range(12)]
# Whoever sends ordinary messages did nothing else before.
_ORDINARY: Final = "ordinary"
KEYS: Final = {
    **{name: frozenset({role}) for name, role in SENDERS.items()},
    **dict.fromkeys(_FLOODERS, frozenset({"draft", "client"})),
    _ORDINARY: frozenset({"client"}),
}
PER_S: Final = 200
# One number in so many floods instead; the kinds of floods come in turn.
_FLOOD_EVERY: Final = 1_000
_FLOOD_S: Final = 3.0
_MOST_CELLS: Final = 2**31 - 1
_PAUSE_S: Final = 0.05
_JOIN_S: Final = 15.0
_IDS: Final = 8
# Whoever leaves sends nothing more, and a link sends its own Hellos.
_NEVER: Final = frozenset({Bye, Hello})


class _Member:
    """A member that joins again whenever it was removed. It remembers ids that it is told."""

    def __init__(self, context: ZmqContext, endpoint: str, folder: Path, name: str) -> None:
        self.role = SENDERS.get(name, "client")
        self.name = name
        self.ids: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_IDS))
        self.welcome: Welcome | None = None
        self.has_joined = asyncio.Event()
        self.transport = context.connect(endpoint, Keyring(folder / name).client_keys(endpoint))
        profile = b""
        if self.role in ("draft", "target"):
            # It claims to be the model that serves, with any number of cells.
            info = ToyModel(ToyConfig(num_cells=_MOST_CELLS)).info
            profile = encode_profile(info, TOY_COSTS)
        self._link_options: dict[str, Any] = {"endpoint": endpoint, "profile": profile}

    async def run(self) -> None:
        while True:
            link = Connection(
                self.transport,
                self,
                node=self.role,
                role=self.role,
                progress=lambda: time.monotonic_ns() >> 24,
                join_timeout_s=None,
                on_lost=self._on_lost,
                **self._link_options,
            )
            # It may be refused or told to leave, and tries again.
            with contextlib.suppress(ExceptionGroup):
                await link.run()
            self._on_lost()
            await asyncio.sleep(_PAUSE_S)

    def _on_lost(self) -> None:
        self.welcome = None

    def on_joined(self, welcome: Welcome) -> None:
        self.welcome = welcome
        self.has_joined.set()

    def on_message(self, message: Any) -> None:
        for item in fields(message):
            value = getattr(message, item.name)
            if item.name.endswith("_id") and isinstance(value, int):
                self.ids[item.name].append(value)

    def send(self, frames: Sequence[bytes]) -> str:
        """Send frames, and return what became of them."""
        try:
            self.transport.send(list(frames))
        except BackpressureError:
            return "not taken"
        return "sent" if self.welcome else "sent by a stranger"


async def attack(
    endpoint: str, folder: Path, seed: int, numbers: Sequence[int], *, is_ordinary: bool
) -> list[Outcome]:
    """Send a message for each number, or an ordinary one that any member may send.

    Returns what became of them.
    """
    with ZmqContext() as context:
        names = [_ORDINARY] if is_ordinary else [*SENDERS]
        members = [_Member(context, endpoint, folder, name) for name in names]
        outcomes = []
        async with _joined(members):
            for number in numbers:
                began = time.monotonic()
                if number % _FLOOD_EVERY == 0 and not is_ordinary:
                    name, end = await _flood(context, endpoint, folder, number // _FLOOD_EVERY)
                    num_sent = 0
                else:
                    member, frames = _message(members, seed, number, is_ordinary)
                    name, num_sent = member.name, sum(map(len, frames))
                    end = member.send(frames)
                outcomes.append(Outcome(number, name, began, time.monotonic(), end, num_sent))
                if number % round(PER_S * _PAUSE_S) == 0:
                    await asyncio.sleep(_PAUSE_S)
        return outcomes


@contextlib.asynccontextmanager
async def _joined(members: Sequence[_Member]) -> AsyncIterator[None]:
    """Run members, all of which have joined when the block begins."""
    async with beside(*(member.run() for member in members)):
        async with asyncio.timeout(_JOIN_S):
            await asyncio.gather(*(member.has_joined.wait() for member in members))
        yield


def _message(
    members: Sequence[_Member], seed: int, number: int, is_ordinary: bool
) -> tuple[_Member, Sequence[bytes]]:
    choice = Random(f"{seed} {number}")
    member = choice.choice([each for each in members if each.welcome] or members)
    welcome = member.welcome
    cluster, epoch = (welcome.cluster, welcome.epoch) if welcome else ("c", 7)
    if is_ordinary:
        return member, encode(NodesRequest(number), cluster=cluster, epoch=epoch)
    generator = Generator(f"{seed} {number}", cluster, epoch)
    if choice.random() < 0.3:
        return member, generator.frames()
    return member, generator.message(kinds_of(member.role) - _NEVER, member.ids)


async def _flood(context: ZmqContext, endpoint: str, folder: Path, number: int) -> tuple[str, str]:
    """Send far too much for some seconds, and return its name and end."""
    key = _FLOODERS[number % len(_FLOODERS)]
    if number % 3 == 2:
        client = _Member(context, endpoint, folder, key)
        async with _joined([client]):
            return "large requests without a pause", await _large_requests(client)
    size, count = ((1_000_000, 1_500), (10, 200_000))[number % 3]
    await asyncio.to_thread(_one_message, endpoint, folder / key, size, count)
    return f"a message of {count} frames of {size} bytes", "sent"


async def _large_requests(client: _Member) -> str:
    text, give_up_at, count = "漢" * 150_000, time.monotonic() + _FLOOD_S, 0
    while time.monotonic() < give_up_at:
        if (welcome := client.welcome) is not None:
            count += 1
            sent = _submit(count, text)
            frames = encode(sent, cluster=welcome.cluster, epoch=welcome.epoch)
            if client.send(frames) == "sent" and count % 20:
                continue
        await asyncio.sleep(0.002)
    return f"{count} tried"


def _submit(request_id: int, prompt: str) -> SubmitRequest:
    sampling = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
    made: Callable[..., SubmitRequest] = SubmitRequest
    return made(
        request_id=request_id,
        prompt=prompt,
        num_choices=1,
        max_tokens=0,
        stops=(),
        ignore_eog=False,
        gamma=-1,
        priority=5,
        prompt_token_ids=(),
        **sampling,
    )


def _one_message(endpoint: str, keys_folder: Path, size: int, count: int) -> None:
    """Send the frames of one message, which are kept in memory until the last one has come."""
    keys = Keyring(keys_folder).client_keys(endpoint)
    assert keys is not None
    context = zmq.Context[zmq.Socket[bytes]]()
    try:
        with context.socket(zmq.DEALER) as socket:
            options = {**client_options(keys), zmq.SNDHWM: 0, zmq.LINGER: 0}
            for option, value in options.items():
                socket.setsockopt(option, value)
            socket.connect(endpoint)
            frame, give_up_at = bytes(size), time.monotonic() + _FLOOD_S
            for _ in range(count):
                if time.monotonic() > give_up_at:
                    break
                socket.send(frame, zmq.SNDMORE, copy=False)
            socket.send(b"", copy=False)
            time.sleep(max(0.0, give_up_at - time.monotonic()))
    finally:
        context.destroy(linger=0)
