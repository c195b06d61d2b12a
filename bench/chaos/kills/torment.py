"""Kill and stop the processes of a fleet at random, drawn from a seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.chaos.fleet.fleet import Fleet

_STOP_S = (0.1, 6.0)
_PAUSE_S = (0.05, 0.5)


@dataclass(frozen=True, slots=True)
class Blow:
    """One kill or stop of a process.

    after_s: time since the last blow. stop_s: duration of SIGSTOP, 0.0 for an immediate kill.
    goes_on: SIGCONT instead of a kill. pause_s: time from the kill to the next start.
    """

    name: str
    after_s: float
    stop_s: float
    goes_on: bool
    pause_s: float


def draw(random: Random, names: Sequence[str], mean_gap_s: float, stop_share: float) -> Blow:
    """Draw the next blow, always with the same number of draws, so that a seed repeats them."""
    after_s = random.expovariate(1 / mean_gap_s)
    name = random.choice(names)
    is_stop, stop_s = random.random() < stop_share, random.uniform(*_STOP_S)
    goes_on, pause_s = random.random() < 0.5, random.uniform(*_PAUSE_S)
    return Blow(name, after_s, stop_s if is_stop else 0.0, is_stop and goes_on, pause_s)


class Torment:
    """Deals blows until `num_kills` were dealt, or until `stop`.

    counts: number of kills and stops, by role.
    """

    def __init__(
        self,
        fleet: Fleet,
        random: Random,
        roles: Sequence[str],
        *,
        mean_gap_s: float,
        stop_share: float,
        counts: Counter[str],
    ) -> None:
        self._fleet = fleet
        self._random = random
        self._names = [name for name, role in fleet.roles.items() if role in roles]
        self._mean_gap_s = mean_gap_s
        self._stop_share = stop_share
        self._counts = counts
        self._busy: set[str] = set()
        self._is_over = False
        self.num_kills = 0

    def stop(self) -> None:
        """Deal no new blows; processes that are down are started again."""
        self._is_over = True

    async def run(self, num_kills: int) -> None:
        """Deal blows; returns when every process runs again."""
        async with asyncio.TaskGroup() as group:
            while self.num_kills < num_kills and not self._is_over:
                blow = draw(self._random, self._names, self._mean_gap_s, self._stop_share)
                await asyncio.sleep(blow.after_s)
                # A process that has not recovered from a blow is left alone.
                if blow.name not in self._busy and not self._is_over:
                    self._busy.add(blow.name)
                    group.create_task(self._deal(blow))

    async def _deal(self, blow: Blow) -> None:
        name, role = blow.name, self._fleet.roles[blow.name]
        self.num_kills += not blow.goes_on
        if blow.stop_s:
            self._fleet.stop(name)
            await asyncio.sleep(blow.stop_s)
        if blow.goes_on:
            self._counts[f"{role} stopped for a while"] += 1
            self._fleet.go_on(name)
        else:
            self._counts[f"{role} stopped, then killed" if blow.stop_s else f"{role} killed"] += 1
            await self._fleet.kill(name)
            await asyncio.sleep(blow.pause_s)
            await self._fleet.start(name)
        self._busy.discard(name)
