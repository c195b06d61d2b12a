"""The short form of `python -m bench hostile-search`: nothing ends, and all items do."""

import json
from functools import partial

import pytest

from airdraft.nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from airdraft.nodes.config.sources import environment
from bench.harness.airdraft import VARIABLE
from bench.harness.fleet import Setup
from bench.hostile import search as searching
from bench.hostile.attacks import PARTS, made
from bench.hostile.items import Outcome, under_way
from bench.hostile.search import AttackPhase, search, slower
from bench.hostile.watching import Heard, limits_of

HTTP = [name for name in PARTS if name != "frames"]
HAS_MODEL = Catalog(default_cache_dir(environment())).has(DEFAULT_TARGET)


def heard(*gaps_s: float) -> Heard:
    return Heard(0.0, gaps=[(10.0 * at, gap_s) for at, gap_s in enumerate(gaps_s, 1)])


@pytest.mark.parametrize("name", HTTP)
def test_a_seed_and_a_number_make_an_item_again(name: str) -> None:
    part = PARTS[name]
    items = [made(part, 1, number, "key") for number in range(40)]
    assert items == [made(part, 1, number, "key") for number in range(40)]
    assert items != [made(part, 2, number, "key") for number in range(40)]
    assert len({item.name for item in items}) > 5


@pytest.mark.parametrize("name", ["grammars", "bodies"])
def test_generated_bodies_are_whole_requests(name: str) -> None:
    for number in range(1, 40):
        if number % 8:
            (sent,) = made(PARTS[name], 1, number, "key").pieces
            head, _, body = sent.partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
            assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("strangers", range(40)),
        ("http", range(40)),
        pytest.param(
            *("grammars", range(16)),
            marks=pytest.mark.skipif(not HAS_MODEL, reason="the default model is not here"),
        ),
        ("bodies", range(32)),
        # The middle one is a message of very many frames.
        ("frames", range(800, 1_200)),
    ],
)
async def test_nothing_ends_and_every_item_does(name: str, numbers: range) -> None:
    found = await search(name, numbers, 1, seed=1)
    assert found.watch.ended == []
    assert sorted(outcome.number for outcome in found.outcomes) == list(numbers)
    # Whoever was attacked, the streams of another key go on.
    (turn,) = found.turns
    assert turn.hostile.gaps
    assert turn.compared.gaps


async def test_a_process_that_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {VARIABLE: "receive.NodesRequest:kill:40"}
    monkeypatch.setattr(searching, "Setup", partial(Setup, environ=failing))
    # Each of these lasts until the time for it is over.
    found = await search("strangers", [0] * 80, 2, seed=1)
    fault = found.findings().faults[0]
    assert fault.startswith("strangers, seed 1: coordinator ended by itself (SIGKILL)")
    assert "under way: " in fault


def test_longer_gaps_are_faults_that_name_the_items() -> None:
    outcomes = [Outcome(7, "a", 9.0, 10.5, "400", 1), Outcome(8, "b", 20.5, 21.0, "200", 1)]
    slow = AttackPhase(heard(1.0, 0.1, 0.1), heard(0.01, 0.01, 0.01), outcomes)
    assert slow.ratios() == pytest.approx((10.0, 100.0))
    assert slow.longest() == "longest gap 1.00 s, beside 7 (a)"
    usual = AttackPhase(heard(0.01, 0.01, 0.02), heard(0.01, 0.01, 0.01), outcomes)
    assert list(slower([usual])) == []
    # The median of the turns decides.
    assert list(slower([usual, slow, usual])) == []
    median, p99 = slower([slow, usual, slow])
    assert median == (
        "the median of gaps is 10.00 times as long, of 1.5 that are allowed: longest gap 1.00 s, "
        "beside 7 (a)"
    )
    assert p99.startswith("the p99 of gaps is 100.00 times as long")


def test_no_tokens_at_all_are_a_fault() -> None:
    assert [
        fault.endswith("no token came") for fault in slower([AttackPhase(heard(), heard(1.0), [])])
    ]


def test_what_is_under_way_at_a_time() -> None:
    outcomes = [Outcome(1, "a", 0.0, 2.0, "left", 0), Outcome(2, "b", 3.0, 4.0, "200", 9)]
    assert under_way(outcomes, 1.0, 2.5) == {1: "a"}
    assert under_way(outcomes, 1.0, 3.5) == {1: "a", 2: "b"}


def test_limits_are_those_of_the_units() -> None:
    assert limits_of("gateway").memory_bytes == 1 << 30
    assert limits_of("coordinator").watchdog_s == 10
    # Nine tenths of the machine.
    assert limits_of("target").memory_bytes > 1 << 28
