"""What outages do to a mesh, told by a mesh that only writes down what it is asked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bench.chaos.links.weather import AFTER_S, Weather
from bench.emulate.cell import UP, Counters, CountersOf, Direction
from bench.emulate.profiles import BOTH, Outage


@dataclass
class Told:
    """A mesh and its cell in one."""

    running: set[str]
    said: list[tuple[str, ...]] = field(default_factory=list)
    num_looks: int = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def cut(self, station: str, directions: Sequence[Direction]) -> None:
        self.said.append(("cut", station, *directions))

    def mend(self, station: str, directions: Sequence[Direction]) -> None:
        self.said.append(("mend", station, *directions))

    def counters(self) -> CountersOf:
        # Whoever is looked at has sent one more.
        self.num_looks += 1
        return {(place, UP): Counters(num_frames=self.num_looks) for place in ("drafts", "refuge")}

    def has_process(self, name: str) -> bool:
        return name in self.running

    async def kill(self, name: str) -> float:
        self.said.append(("kill", name))
        return self.now()

    async def start_node(self, role: str, name: str, place: str) -> float:
        self.said.append(("start", role, name, place))
        return self.now()


def weather_over(told: Told, outage: Outage | None = None) -> Weather:
    return Weather(told, told, outage, ("drafts", "clients"), ("d0", "d1"), "refuge")  # type: ignore[arg-type]


async def test_an_outage_comes_over_all_stations_and_goes() -> None:
    told = Told({"d0"})
    dark = await weather_over(told).darken(Outage(directions=(UP,), lasts_s=0.01, every_s=1.0))
    assert told.said == [
        ("cut", "drafts", UP),
        ("cut", "clients", UP),
        ("mend", "drafts", UP),
        ("mend", "clients", UP),
    ]
    assert dark.mended - dark.begin >= 0.01
    assert dark.over == pytest.approx(dark.mended + AFTER_S)


async def test_who_moves_starts_anew_where_it_is_light_and_comes_back_the_next_time() -> None:
    told = Told({"d0"})
    weather = weather_over(told)
    outage = Outage(directions=BOTH, lasts_s=0.01, every_s=1.0, moves=True)
    assert weather.place == "drafts"
    dark = await weather.darken(outage)
    assert told.said == [
        ("cut", "drafts", *BOTH),
        ("kill", "d0"),
        ("start", "draft", "d0", "refuge"),
        ("mend", "drafts", *BOTH),
    ]
    # Its healing counts from what its process sends first.
    assert dark.mended < dark.begin + 0.01
    assert weather.place == "refuge"
    del told.said[:]
    await weather.darken(outage)
    assert told.said[0] == ("cut", "refuge", *BOTH)
    assert told.said[2] == ("start", "draft", "d0", "drafts")


async def test_who_is_released_is_not_moved_any_more() -> None:
    told = Told({"d0"})
    weather = weather_over(told)
    outage = Outage(directions=BOTH, lasts_s=0.02, every_s=1.0, moves=True)
    darkening = asyncio.create_task(weather.darken(outage))
    await asyncio.sleep(0)
    await weather.release()
    assert told.said[-1] == ("mend", "drafts", *BOTH)
    await darkening
    del told.said[:]
    await weather.darken(outage)
    assert [step[0] for step in told.said] == ["cut", "mend"]


async def test_outages_come_one_after_the_other_and_are_known_while_they_last(eventually) -> None:
    told = Told(set())
    outage = Outage(directions=BOTH, lasts_s=0.001, every_s=0.002)
    weather = weather_over(told, outage)
    raining = asyncio.create_task(weather.run())
    await eventually(lambda: len(weather.darks) >= 3)
    raining.cancel()
    await asyncio.gather(raining, return_exceptions=True)
    assert all(math.isfinite(dark.over) for dark in weather.darks[:-1])
    await weather_over(told, None).run()
