"""Meshes over bad links: what streams count, what is a fault, and a few seconds of each suite."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from airdraft.nodes.client.generation import GenerateOptions
from bench.__main__ import bench
from bench.chaos.links import profiles
from bench.chaos.links.figures import LinkFigures
from bench.chaos.links.mesh import Setting, link_mesh
from bench.chaos.links.profiles import AFTER_S, Weather, run_profile
from bench.chaos.links.stalls import judged, run_stalls, stalls_of
from bench.chaos.links.toxics import run_toxic
from bench.emulate import open as of_cells
from bench.emulate.cell import Cell
from bench.emulate.open import open_cell
from bench.emulate.profiles import BOTH, GOOD, PROFILES, Outage, cell_of
from bench.emulate.toxics import TOXICS, Toxic
from bench.harness.cases import Case, Expected
from bench.harness.history import ClientEvent, Record
from bench.harness.processes import beside
from bench.harness.streams import Heard, Hearing, Task, streams
from bench.netns import NamespacesError

# -- what streams count ----------------------------------------------------------------------------


def text_of(prompt: int = 2, end: str = "finished", reason: str = "") -> Record:
    case = Case((1,) * prompt, GenerateOptions(), (Expected((5, 6, 7, 8), b"", "length"),))
    return Record(0, case, 0.0, None, end=end, reason=reason, has_token_ids=False)


async def test_whole_texts_are_counted_with_the_gaps_inside_them() -> None:
    hearing, began = Hearing(), asyncio.get_running_loop().time()
    hearing.begin(0)

    def receive(record: Record, *tokens: tuple[float, int, tuple[int, ...]]) -> None:
        for at_s, position, ids in tokens:
            record.events.append(ClientEvent(at_s, "tokens", 0, position, ids))
            hearing.see(0, record)
            record.ended_at_s = at_s
        if record.end == "finished":
            record.events.append(ClientEvent(record.ended_at_s, "finished", reason="length"))
            hearing.see(0, record)
        hearing.end(0, record)

    receive(text_of(), (1.0, 0, (5,)), (1.5, 1, (6, 7, 8)))
    receive(text_of(), (4.0, 0, (5, 6, 7, 9)))
    # One that failed is no text, and its stall is a gap; between two texts is none.
    receive(text_of(end="failed", reason="lost"), (5.0, 0, (5, 6)))
    receive(text_of(), (7.0, 0, (5, 6, 7, 8)))
    heard = hearing.heard()
    assert (heard.num_texts, heard.num_tokens, heard.num_wrong) == (3, 14, 1)
    assert heard.failures == {"lost": 1}
    assert heard.gaps_s == [(1.5, 0.5, 3), (7.0, 2.0, 2)]
    assert heard.most_at_once == 4
    assert heard.waits_s[0] >= began - 7.0
    assert "requests failed: {'lost': 1}" in heard.faults()
    # What was received is told once; how long streams have waited, always.
    later = hearing.heard()
    assert (later.num_tokens, len(later.waits_s)) == (0, 1)


# -- figures, rows and faults ----------------------------------------------------------------------


def tokens(count: int, **fields: Any) -> Heard:
    return Heard(tokens_of=Counter({0: count}), **fields)


def figures(link: str = "wifi", **changes: Any) -> LinkFigures:
    made = LinkFigures(
        link=link,
        kind="a kind",
        plain=(tokens(200, num_texts=2, seconds=2.0), tokens(300, num_texts=3, seconds=3.0)),
        near=tokens(1000, seconds=10.0, num_texts=10, gaps_s=[(1.0, 0.05, 9), (2.0, 0.15, 9)]),
        far=tokens(900, num_texts=9, failures=Counter({"lost": 2})),
    )
    return replace(made, **changes)


NEAR = figures().near


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (figures(), ""),
        (figures(deaths=["draft-0 silent"], may_die=True, noticed_s=[2.1], healed_s=[4.9]), ""),
        (figures("reset", plain=(), growth=(0, -1)), ""),
        (figures("blackout", noticed_s=[2.1, 3.1]), "an outage was noticed after 3.1 s"),
        (figures(far=tokens(900, num_wrong=1)), "wifi: 1 wrong texts"),
        (figures(near=replace(NEAR, num_texts=0)), "wifi: no text was finished at the hub"),
        (figures(deaths=["draft-0 silent"] * 2), "wifi: 2 false deaths: draft-0 silent"),
        (
            figures(near=tokens(949, num_texts=1, seconds=10.0)),
            "wifi: 0.95 of the speed of the target alone",
        ),
        (figures(healed_s=[1.0, math.inf]), "wifi: a node was back after inf s"),
        (figures(near=replace(NEAR, failures=Counter(x=1))), "requests at the hub failed"),
        (figures(near=replace(NEAR, waits_s=[9.0])), "at the hub has waited for 9.0 s"),
        (figures(growth=(0, 1)), "the coordinator kept 0 threads and 1 descriptors"),
        (figures(notes=["the mesh did not recover"]), "wifi: the mesh did not recover"),
    ],
)
def test_each_fault_of_a_link_is_said(made: LinkFigures, fault: str) -> None:
    said = made.faults()
    assert len(said) == bool(fault)
    assert fault in "".join(said)


def test_a_stall_is_what_is_left_of_a_gap_after_the_loss() -> None:
    gaps = [(9.0, 5.0, 9), (12.0, 2.5, 100), (13.0, 3.5, 300), (10.2, 0.3, 9), (10.6, 0.55, 9)]
    # Its last token was under way when the target was lost.
    gaps += [(22.0, 1.99, 200)]
    heard = Heard(gaps_s=gaps)
    stalled, reads = zip(*stalls_of(heard, [10.0, 20.0], 0.001), strict=True)
    assert stalled == pytest.approx((2.0, 3.0, 0.6, 2.0))
    # Texts of those who wait together are read one after the other.
    assert reads == pytest.approx((0.109, 0.409, 0.009, 0.2))
    assert judged("kill", 4, 0.001, [10.0, 20.0], heard).faults == []
    bad = Heard(num_wrong=2, failures=Counter(gone=1), gaps_s=[(14.0, 5.0, 9)], waits_s=[1.0, 9.0])
    faults = judged("cut", 4, 0.001, [10.0], bad).faults
    assert faults[0] == "cut: p99 of the stall without reading texts is 4.0 s"
    said = ("p99 of the stall", "2 wrong texts", "requests failed", "had waited for 9.0 s")
    assert all(part in fault for part, fault in zip(said, faults, strict=True))
    assert "shows nothing" in judged("cut", 4, 0.001, [10.0], Heard()).faults[0]


# -- short runs ------------------------------------------------------------------------------------

SHORT = Setting(seconds=6.0, near=2, far=2, warm_up_s=1.0)


async def test_texts_are_as_undisturbed_over_a_lossy_link() -> None:
    found = await run_profile(PROFILES["wifi"], SHORT, "auto")
    assert found.kind.startswith(("TUN devices", "TCP proxy"))
    assert all(each.num_tokens > 0 for each in found.heard)
    assert sum(each.num_texts for each in found.heard) > 0
    assert sum(each.num_wrong for each in found.heard) == 0
    assert found.lost_share > 0.0
    assert found.deaths == []


async def test_outages_are_noticed_and_heal() -> None:
    cell = cell_of({"here": GOOD, "there": GOOD}, seed=1)
    async with open_cell(cell) as (live, _), link_mesh(live) as mesh:
        await mesh.start("target-0")
        await mesh.start("draft-0", place="here")
        await mesh.wait_joined("target-0", "draft-0")
        async with streams(mesh, Task(num_streams=2)) as clients:
            weather = Weather(mesh, live, ("here",), ("draft-0",), "there")
            log = mesh.log_of_members
            for moves, place in ((False, "here"), (True, "there"), (True, "here")):
                outage = Outage(directions=BOTH, lasts_s=4.0, every_s=20.0, moves=moves)
                dark = await weather.darken(outage)
                assert weather.place == place
                assert dark.mended < dark.over - AFTER_S or not moves
                await mesh.wait_changed("draft-0", dark.begin, has_left=True)
                await mesh.wait_changed("draft-0", dark.begin, has_left=False)
                await mesh.wait_joined("draft-0")
                dark.over = mesh.now()
                assert len(log.noticed_s(dark)) == 1
                assert max(log.healed_s(dark)) < math.inf
                assert log.false_deaths([dark], dark.begin, dark.over) == []
            heard = clients.heard()
            assert heard.num_tokens > 0
            assert heard.faults() == []


async def test_outages_come_one_after_the_other_and_are_known_while_they_last(
    eventually: Callable[..., Any],
) -> None:
    cell = cell_of({"here": GOOD}, seed=1)
    outage = Outage(directions=BOTH, lasts_s=0.001, every_s=0.002)
    async with open_cell(cell, means="proxy") as (live, _), link_mesh(live) as mesh:
        weather = Weather(mesh, live, ("here",), (), "here")
        async with beside(weather.run(outage)):
            await eventually(lambda: len(weather.darks) >= 3)
        assert all(math.isfinite(dark.over) for dark in weather.darks[:-1])


async def test_streams_of_a_lost_target_go_on_at_the_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = await run_stalls(["cut"], 2, 8, 1, "auto")
    # How long something takes is not for tests.
    assert [fault for fault in faults if "p99 of" not in fault and "waited" not in fault] == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("*emulated* (T")
    assert lines[-1].startswith("| cut | 2 |")


@pytest.mark.parametrize(
    "toxic",
    [Toxic(name="reset", reset_bytes=5_000.0), TOXICS["drip"]],
    ids=lambda toxic: toxic.name,
)
async def test_texts_are_as_undisturbed_over_a_toxic_and_nothing_is_left(toxic: Toxic) -> None:
    found = await run_toxic(toxic, SHORT)
    assert found.near.num_wrong == found.far.num_wrong == 0
    assert found.near.failures == {}
    assert found.near.num_tokens > 0
    assert found.notes == []
    assert (found.num_resets > 0) == (toxic.name == "reset")


# -- the commands ----------------------------------------------------------------------------------


def test_links_ends_as_its_figures_say_or_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_profile(profile: Any, setting: Setting, _means: str) -> LinkFigures:
        assert setting.seconds == 5.0
        return figures(profile.name, deaths=["draft-0 silent"] if profile.name == "good" else [])

    def refuse(_cell: Cell) -> None:
        raise NamespacesError("network namespaces need root and `ip`")

    ask = ["chaos", "links", "--seconds", "5", "--profiles"]
    monkeypatch.setattr(of_cells, "tun_cell", refuse)
    result = CliRunner().invoke(bench, [*ask, "blackout"])
    assert result.exit_code == 1
    assert "`ip`; --means proxy needs no namespaces, but loses no packets\n" in result.output
    monkeypatch.setattr(profiles, "run_profile", run_profile)
    assert CliRunner().invoke(bench, [*ask, "wifi"]).exit_code == 0
    result = CliRunner().invoke(bench, [*ask, "wifi,good"])
    assert result.exit_code == 1
    assert "good: 1 false deaths: draft-0 silent" in result.output
