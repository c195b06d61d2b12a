"""Measure how soon the mesh notices that a process is dead, and that it is back.

Members and coordinators run in processes of their own (`victim.py`). They are killed, stopped, or
their event loop is blocked. The other side runs in this process, which polls it every few
milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.chaos.fleet.keys import free_port
from bench.chaos.fleet.victims import NotNoticedError, Victim
from bench.live.light_nodes import light_profile
from mesh.authorized import Entry
from mesh.messages import Welcome
from mesh.zmq_transport import ZmqContext
from nodes.coordinator.service import Coordinator
from nodes.keys.keyring import Keyring
from nodes.messages.access import ROLES
from nodes.worker.link import Link

MEMBERS: Final = ("target", "draft", "client")
# Limits for the time until each fault is noticed.
LIMITS_S: Final = {"killed": 0.2, "stopped": 2.5, "blocked": 2.5}
FAULTS: Final = tuple(LIMITS_S)
KEYED: Final = "tcp-keys"
OVER: Final = (KEYED, "tcp", "ipc")
_LOOK_EVERY_S = 0.002
_WAIT_LIMIT_S = 60.0
_PASS_S = 0.01


@dataclass(slots=True)
class Times:
    """Times of one role and fault.

    noticed_s: from the fault until it was noticed. back_s: from recovery until it was a member.
    """

    noticed_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)


Found = dict[tuple[str, str], Times]
HEAD = (
    "| role | fault | times | noticed p50 s | max s | limit s | back p50 s | max s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def rows(found: Found) -> list[str]:
    return [
        f"| {role} | {fault} | {len(times.noticed_s)} | {median(times.noticed_s):.3f} "
        f"| {max(times.noticed_s):.3f} | {LIMITS_S[fault]} | {median(times.back_s):.2f} "
        f"| {max(times.back_s):.2f} |"
        for (role, fault), times in found.items()
    ]


def is_within_limits(found: Found) -> bool:
    return all(max(t.noticed_s) <= LIMITS_S[fault] for (_, fault), t in found.items())


async def detect_members(
    over: str, folder: Path, faults: Sequence[str], repeats: int, away_s: float = 0.0
) -> Found:
    """Measure members of each role, as seen by the coordinator; all suffer each fault at once."""
    endpoint, ring = _place(over, folder)
    found: Found = defaultdict(Times)
    with ZmqContext() as context, _quiet_links():
        coordinator = Coordinator(
            context.bind(endpoint, ring.server_keys(endpoint)),
            authorized=ring.authorized if over == KEYED else None,
        )
        serving = asyncio.create_task(coordinator.run())
        victims = [Victim(role, coordinator.endpoint, folder, away_s) for role in MEMBERS]

        def is_in(role: str) -> bool:
            return role in coordinator.state.roles().values()

        try:
            await _measure(victims, is_in, faults, repeats, found)
        finally:
            await _end(victims, serving)
    return found


async def detect_coordinator(
    over: str, folder: Path, faults: Sequence[str], repeats: int, away_s: float = 0.0
) -> Found:
    """Measure a coordinator, as seen by members of each role; the last to notice counts."""
    endpoint, ring = _place(over, folder)
    found: Found = defaultdict(Times)
    with ZmqContext() as context, _quiet_links():
        own = ring.client_keys(endpoint)
        links = [
            Link(
                context.connect(endpoint, own),
                _Idle(),
                endpoint=endpoint,
                node=f"seer-{role}",
                role=role,
                profile=b"" if role == "client" else light_profile(role, _PASS_S),
                join_timeout_s=None,
            )
            for role in MEMBERS
        ]
        victims = [Victim("coordinator", endpoint, folder, away_s)]
        serving = [asyncio.create_task(link.run()) for link in links]
        seen = _Agreed(links)
        try:
            await _measure(victims, lambda _role: seen.is_joined(), faults, repeats, found)
        finally:
            await _end(victims, *serving)
    return found


@contextlib.contextmanager
def _quiet_links() -> Iterator[None]:
    """Silence the links' warnings about lost coordinators, which are lost on purpose here."""
    logger = logging.getLogger("nodes.worker.link")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Agreed:
    """Whether several members are joined; while they disagree, the last state all agreed on."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._is_joined = False

    def is_joined(self) -> bool:
        joined = {link.is_joined for link in self._links}
        if len(joined) == 1:
            (self._is_joined,) = joined
        return self._is_joined


class _Idle:
    """The handler of a member that only keeps its membership."""

    def on_joined(self, _welcome: Welcome) -> None:
        pass

    def on_message(self, message: Any) -> None:
        pass


async def _measure(
    victims: Sequence[Victim],
    is_in: Callable[[str], bool],
    faults: Sequence[str],
    repeats: int,
    found: Found,
) -> None:
    await asyncio.gather(*(victim.start() for victim in victims))
    for victim in victims:
        await _until(partial(is_in, victim.role), victim.role)
    for _ in range(repeats):
        for fault in faults:
            await asyncio.gather(*(_strike(v, fault, is_in, found) for v in victims))


async def _strike(victim: Victim, fault: str, is_in: Callable[[str], bool], found: Found) -> None:
    role = victim.role
    times = found[role, fault]
    struck_at = time.perf_counter()
    victim.suffer(fault)
    noticed_at = await _until(lambda: not is_in(role), f"{role} {fault}")
    times.noticed_s.append(noticed_at - struck_at)
    await victim.recover(fault, struck_at)
    there_at = time.perf_counter()
    times.back_s.append(await _until(lambda: is_in(role), f"{role} back") - there_at)


async def _until(condition: Callable[[], bool], what: str) -> float:
    """Return the time at which the condition became true. Raises NotNoticedError."""
    give_up_at = time.perf_counter() + _WAIT_LIMIT_S
    while not condition():
        if time.perf_counter() > give_up_at:
            raise NotNoticedError(f"{what}: not noticed within {_WAIT_LIMIT_S:g} s")
        await asyncio.sleep(_LOOK_EVERY_S)
    return time.perf_counter()


async def _end(victims: Sequence[Victim], *tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(victim.end() for victim in victims))


def _place(over: str, folder: Path) -> tuple[str, Keyring]:
    """Return an endpoint and the keyring of its links, which holds keys only for tcp-keys."""
    ring = Keyring(folder)
    if over == "ipc":
        return f"ipc://{folder}/mesh.sock", ring
    if over == KEYED and ring.coordinator_pair() is None:
        ring.make_coordinator_pair()
        ring.authorized().add(Entry(ring.make_own().public, "here", ROLES))
    return f"tcp://127.0.0.1:{free_port()}", ring
