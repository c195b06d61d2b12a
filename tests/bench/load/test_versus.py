"""Systems in turns: the same requests for each, and one turn for those that take too long."""

import pytest

from bench.load import versus
from bench.load.asking import Endpoint
from bench.load.figures import Asked
from bench.load.versus import Load, Side, in_turns
from bench.load.workloads import Workload

LOAD = Load(workload=Workload("w", ("a", "b", "c", "d"), 3), num_streams=2)


@pytest.fixture
def asked(monkeypatch):
    """Who was asked for what; side "slow" takes a minute for each answer."""
    found = []

    async def answer(endpoint, prompt, *, max_tokens, temperature, seed, schema):
        found.append((endpoint.url, prompt))
        each_s = 20.0 if endpoint.url == "slow" else 0.1
        return Asked(0.0, tuple(each_s * k for k in range(1, max_tokens + 1)))

    monkeypatch.setattr(versus, "ask", answer)
    return found


async def test_all_sides_have_the_same_requests_in_changing_order(asked):
    sides = [Side(name, Endpoint(url=name, model="m"), ()) for name in ("one", "two")]
    turns = await in_turns(sides, LOAD, 3)
    assert [[figures.num_requests for figures in turn] for turn in turns] == [[2, 2]] * 3
    by_side = {name: [prompt for url, prompt in asked if url == name] for name in ("one", "two")}
    # A request, a warm-up turn, and three turns that go on through the prompts.
    assert by_side["one"] == ["d", "c", "d", "a", "b", "c", "d", "a", "b"]
    assert by_side["two"] == by_side["one"]
    measured = [url for url, _ in asked[6:]]
    assert measured == [*["one"] * 2, *["two"] * 4, *["one"] * 4, *["two"] * 2]


async def test_a_slow_side_has_one_turn(asked):
    sides = [Side(name, Endpoint(url=name, model="m"), ()) for name in ("fast", "slow")]
    turns = await in_turns(sides, LOAD, 3)
    assert [[figures is not None for figures in turn] for turn in turns] == [
        [True, True],
        [True, False],
        [True, False],
    ]
    assert [url for url, _ in asked].count("slow") == 3
