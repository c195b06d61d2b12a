"""Cut the link of one role without a word, as a dropped route does, and mend it or leave it cut.

The role lives in a network namespace of its own, and everything else together in another. Packets
in both directions vanish: no reset and no error tells either side that its connections are dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from random import Random
from typing import Final

import httpx

from airdraft.nodes.engine.rules import NO_RULES
from bench.chaos.kills.asking_again import Reader
from bench.chaos.kills.backdrop import Ask, Backdrop, Run, backdrop, over_the_wire
from bench.emulate.open import LiveCell, open_cell
from bench.emulate.profiles import BOTH, GOOD, cell_of
from bench.harness.cases import Case, toy_cases
from bench.harness.fleet import CLIENT, COORDINATOR, Fleet, FleetError, Setup, fleet
from bench.harness.history import Record, Tally
from bench.harness.processes import HUB
from bench.harness.report import Findings, counts

# Who is cut off, by role: the only process of the role, so that it is missed.
CUT: Final = {
    COORDINATOR: COORDINATOR,
    "target": "target-0",
    "draft": "draft-0",
    "gateway": "gateway-0",
    CLIENT: CLIENT,
    # A client of the gateway over HTTP.
    "caller": "caller",
}
_GATEWAY: Final = CUT["gateway"]
_OVER_HTTP: Final = ("gateway", "caller")
# Off loopback a gateway needs one.
_API_KEY: Final = "ad-of-the-caller"
# Nodes that must join again.
_MISSED: Final = {
    COORDINATOR: ("target-0", "draft-0"),
    "target": ("target-0",),
    "draft": ("draft-0",),
}
# How soon a link that carries nothing is noticed (docs/design/membership-and-failover.md).
_NOTICED_S: Final = 3.0
# Whoever is cut off tries to connect every 2 s at most; then it joins, and a text is read again.
_BACK_S: Final = 5.0
_FAR: Final = "far"
_DEADLINE_S: Final = 20.0
# A request over HTTP has no deadline. It waits for the link, and then for a target up to 30 s.
_HTTP_DEADLINE_S: Final = 120.0
# After a silence of this time a caller asks again. The kernel of the gateway sends lost data again
# at doubling intervals, after a minute only every minute.
_READ_S: Final = 10.0
_LIMIT_S: Final = 60.0
_BEFORE_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.02
_NUM_CASES: Final = 48
# Texts that take seconds, so that all streams are within one when the link is cut.
_MEAN_TOKENS: Final = 200.0
_TARGET: Final = "toy:1@20ms"
_LOST: Final = re.compile(r"^(\S+ \S+) \w+ \S+: (the coordinator at .*)$", re.MULTILINE)
_LEFT: Final = re.compile(r"^(\S+ \S+) \w+ \S+: ((?:target|draft) \S+ left: .*)$", re.MULTILINE)
_LOGGED: Final = "%Y-%m-%d %H:%M:%S,%f"
# Logged times are cut to milliseconds.
_CUT_OFF_S: Final = 0.001


@dataclass(slots=True)
class _Cut:
    """One cut of a link. finished_at: when requests have finished, in order."""

    scene: Backdrop
    live: LiveCell
    finished_at: list[float]
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.live.cut(_FAR, BOTH)
        self.began = self.scene.fleet.now()

    def mend(self) -> float:
        """End the cut and return the time."""
        self.live.cut(_FAR, BOTH, ends=True)
        return self.scene.fleet.now()

    async def line(self, name: str, pattern: re.Pattern[str]) -> tuple[float, str]:
        """Wait for a line in a log; return how long after the cut it was written, and its text."""
        mesh = self.scene.fleet

        def found() -> tuple[float, str] | None:
            ahead_s = time.time() - mesh.now()
            for line in pattern.finditer(mesh.log(name).read_text(errors="replace")):
                at = datetime.strptime(line[1], _LOGGED).timestamp() - ahead_s + _CUT_OFF_S
                if at >= self.began:
                    return at - self.began, re.sub(r"tcp://\S+", "ENDPOINT", line[2])
            return None

        return await mesh.until(found, _LIMIT_S, f"{name} has not noticed the cut")

    async def streams_ended(self) -> tuple[float, str]:
        """Wait until the coordinator has ended the streams of a client that it cannot reach."""
        async with asyncio.timeout(_LIMIT_S):
            while True:
                await asyncio.sleep(_LOOK_EVERY_S)
                if not (await self.scene.looking.status()).num_streams:
                    break
        return self.scene.fleet.now() - self.began, "no stream of it is left"

    async def served(self, since: float) -> float:
        """Returns how long after a time the first request finished. Raises FleetError."""

        def found() -> float | None:
            return next((at - since for at in self.finished_at if at > since), None)

        return await self.scene.fleet.until(found, _LIMIT_S, "no request has finished")


async def half_open(role: str, lasts_s: float, seed: int = 1) -> Findings:
    """Cut off the only process of a role for so many seconds, under requests of known texts.

    Raises NamespacesError if network namespaces cannot be made here.
    """
    name, num_gateways = CUT[role], int(role in _OVER_HTTP)
    setup = Setup(num_targets=1, num_drafts=1, num_gateways=num_gateways, target_model=_TARGET)
    async with _apart(name, setup, seed) as (scene, cut_now):
        mesh = scene.fleet
        cut = cut_now()
        seen = await _noticed(cut, role)
        await asyncio.sleep(max(0.0, cut.began + lasts_s - mesh.now()))
        mended_at = cut.mend()
        back_s = [await cut.served(mended_at)]
        for node in _MISSED.get(role, ()):
            joined_at = await mesh.wait_changed(node, cut.began, has_left=False)
            back_s.append(joined_at - mended_at)
    found = _judged(f"{role} cut off for {lasts_s:g} s", scene.tally, seen)
    found.lines.append(f"  all served again {max(back_s):.1f} s after the link was mended")
    if max(back_s) > _BACK_S + (role == "caller") * _READ_S:
        found.faults.append(f"{role}: served again only after {max(back_s):.1f} s")
    # The rest of a draft node's mesh needs nothing of it. What is short is survived by all.
    if (failed := scene.tally.ends["failed"]) and (role == "draft" or lasts_s < _DEADLINE_S / 2):
        found.faults.append(f"{role}: {failed} requests failed beside a cut of {lasts_s:g} s")
    return found


async def replaced(role: str, seed: int = 1) -> Findings:
    """Cut off one of two targets or draft nodes for good; the other one takes over.

    Then the process that is cut off is stopped, and a machine at another place takes its name.
    """
    name = CUT[role]
    num_targets, num_drafts = (2, 1) if role == "target" else (1, 2)
    setup = Setup(num_targets=num_targets, num_drafts=num_drafts, target_model=_TARGET)
    async with _apart(name, setup, seed) as (scene, cut_now):
        mesh, cut = scene.fleet, cut_now()
        seen = await _noticed(cut, role)
        await cut.served(mesh.now())
        await scene.end(name)
        started_at = mesh.now()
        await mesh.start(name)
        joined_s = await mesh.wait_changed(name, started_at, has_left=False) - started_at
    found = _judged(f"{role} cut off for good, beside a twin", scene.tally, seen)
    found.lines.append(
        f"  the twin served on; the process cut off ended by SIGTERM, and one of its name joined "
        f"{joined_s:.1f} s after its start elsewhere"
    )
    if failed := scene.tally.ends["failed"]:
        found.faults.append(f"{role}: {failed} requests failed although there was a twin")
    return found


async def _noticed(cut: _Cut, role: str) -> dict[str, tuple[float, str]]:
    """Wait until both sides have noticed a cut; return when each did, and what it said."""
    if role == COORDINATOR:
        return {
            "the coordinator": await cut.line(COORDINATOR, _LEFT),
            "the target": await cut.line("target-0", _LOST),
            "the draft node": await cut.line("draft-0", _LOST),
        }
    if role == "caller":
        # What it is sent is in the kernel's hands, and it has asked for nothing since.
        return {}
    if role in ("gateway", CLIENT):
        seen = {"the coordinator": await cut.streams_ended()}
    else:
        seen = {"the coordinator": await cut.line(COORDINATOR, _LEFT)}
    if role != CLIENT:
        seen[f"the {role}"] = await cut.line(CUT[role], _LOST)
    return seen


def _judged(what: str, tally: Tally, seen: dict[str, tuple[float, str]]) -> Findings:
    """Returns what the requests of a scene show, and who noticed the cut when."""
    found = Findings(
        [
            f"{what}: {tally.num_requests} requests ({counts(tally.ends)}), longest gap between "
            f"events of one {max(tally.stalls_s, default=0.0):.1f} s"
        ]
    )
    found.lines += [
        f"  {who} noticed after {at_s:.1f} s: {text}" for who, (at_s, text) in seen.items()
    ]
    found.lines += [f"  failed {num} x {why}" for why, num in tally.reasons.most_common()]
    found.faults += [f"{what}: {fault}" for fault in tally.faults]
    found.faults += [
        f"{what}: {who} noticed only after {at_s:.1f} s"
        for who, (at_s, _) in seen.items()
        if at_s > _NOTICED_S
    ]
    return found


@contextlib.asynccontextmanager
async def _apart(
    name: str, setup: Setup, seed: int
) -> AsyncIterator[tuple[Backdrop, Callable[[], _Cut]]]:
    """Run a mesh under load in which one name is at the far end of a link.

    Yields it with a function that cuts the link. The coordinator is at the hub, so if it shall be
    alone, all others are at the far end.
    """
    places = dict.fromkeys((*setup.roles, CLIENT), HUB) | {name: _FAR}
    if name == COORDINATOR:
        places = dict.fromkeys(places, _FAR)
    finished_at = list[float]()
    cases = toy_cases(Random(seed), _NUM_CASES, _MEAN_TOKENS)
    cell = cell_of({_FAR: GOOD}, seed)
    async with (
        open_cell(cell, means="tun") as (live, _),
        fleet(setup, places=live, starts=[COORDINATOR]) as mesh,
    ):
        # The caller reaches the gateway from its own machine, or from another one.
        host = live.hub_host if name == CUT["caller"] else "127.0.0.1"
        for each in setup.roles:
            is_open = each == _GATEWAY and host == live.hub_host
            await mesh.start(
                each,
                *(("--listen", f"{host}:{mesh.port(each)}") if is_open else ()),
                place=places[each],
                environ={"AIRDRAFT_API_KEY": _API_KEY},
            )
        asking = partial(over_the_wire, place=places[CLIENT])
        deadline_s = _DEADLINE_S
        if setup.num_gateways:
            asking, deadline_s = partial(_over_http, live=live, host=host), _HTTP_DEADLINE_S
            cases = [case for case in cases if case.options.rules == NO_RULES]

        @contextlib.asynccontextmanager
        async def noting(mesh: Fleet, run: Run) -> AsyncIterator[Ask]:
            async with asking(mesh, run) as send:

                async def one(stream: int, number: int, case: Case) -> Record:
                    record = await send(stream, number, case)
                    if record.end == "finished":
                        finished_at.append(record.ended_at_s)
                    return record

                yield one

        run = Run(seed=seed, num_streams=4, deadline_s=deadline_s, setup=setup)
        async with backdrop(run, cases, noting, mesh) as scene:
            await mesh.until(lambda: finished_at, _LIMIT_S, "no request has finished")
            await asyncio.sleep(_BEFORE_S)
            yield scene, lambda: _Cut(scene, live, finished_at)


@contextlib.asynccontextmanager
async def _over_http(mesh: Fleet, run: Run, live: LiveCell, host: str) -> AsyncIterator[Ask]:
    """Send requests over HTTP from the far end.

    host: of the gateway. If it is at the hub, who is cut off asks again.
    """
    base = f"http://{host}:{mesh.port(_GATEWAY)}"
    is_far = host == live.hub_host
    headers = {"authorization": f"Bearer {_API_KEY}"}

    def wait_until_ready() -> None:
        give_up_at = time.monotonic() + _LIMIT_S
        with live.entered(_FAR):
            while time.monotonic() < give_up_at:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{base}/readyz", headers=headers).status_code == 200:
                        return
                time.sleep(_LOOK_EVERY_S)
        raise FleetError(f"{_GATEWAY} is not ready within {_LIMIT_S:g} s")

    def in_place(number: int, case: Case) -> Record:
        async def answered() -> Record:
            timeout_s = _READ_S if is_far else run.deadline_s
            async with httpx.AsyncClient(headers=headers, timeout=timeout_s, verify=False) as http:
                reader = Reader(http, number, case, run.deadline_s, is_stream=bool(number % 2))
                if is_far:
                    return await reader.read([f"{base}/v1"], 0)
                return await reader.read_once(f"{base}/v1")

        # A namespace is a matter of threads, so each request has a thread and a loop of its own.
        with live.entered(_FAR):
            return asyncio.run(answered())

    await asyncio.to_thread(wait_until_ready)

    async def one(_stream: int, number: int, case: Case) -> Record:
        return await asyncio.to_thread(in_place, number, case)

    yield one
