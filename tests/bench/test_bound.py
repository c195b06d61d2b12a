import math
import random

import pytest

from bench.asking import Answer, rate
from bench.bound import Costs, bound_rate, open_flow_rate, run_s, runs_of
from nodes.messages import StreamFigures

# A pass takes 10 s and 1 s more for each guess.
COSTS = Costs(step_s=4.0, pass_s={1: 10.0, 16: 25.0})


def least_s(num_tokens: int, num_right: int, costs: Costs, done: int = 0, now: float = 0) -> float:
    """All ways to commit a run, one after the other."""
    if done >= num_tokens:
        return now
    found = math.inf
    for num_guesses in range(num_right - done + 1):
        begins = max(now, (done + num_guesses) * costs.step_s) if num_guesses else now
        end_s = begins + costs.of_pass(num_guesses + 1)
        found = min(found, least_s(num_tokens, num_right, costs, done + num_guesses + 1, end_s))
    return found


def test_answers_without_a_second_token_have_no_rate() -> None:
    figures = StreamFigures(0, 0, 0, 0, 0, 0, "")
    nothing, one, three = (
        Answer(tuple(range(len(at))), "", (figures,), 0.0, at, max(1e-9, *at, 0.0))
        for at in ((), (1.0,), (2.0, 3.0, 4.0))
    )
    for answers in ([nothing], [one], [nothing, nothing], [nothing, one]):
        assert rate(answers) == 0.0
    assert rate([nothing, three]) == 1.0


def test_runs_end_with_a_wrong_guess_or_with_the_text() -> None:
    assert list(runs_of([True, True, False, False, True])) == [(3, 2), (1, 0), (1, 1)]
    assert list(runs_of([])) == []


@pytest.mark.parametrize("num_right", range(7))
@pytest.mark.parametrize("step_s", [0.0, 3.0, 9.0, 30.0])
@pytest.mark.parametrize("ends", [True, False])
def test_a_run_takes_as_long_as_its_best_passes(num_right: int, step_s: float, ends: bool) -> None:
    costs = Costs(step_s, COSTS.pass_s)
    num_tokens = num_right if ends else num_right + 1
    assert run_s(num_tokens, num_right, costs) == least_s(num_tokens, num_right, costs)


def test_rates_that_can_be_worked_out_by_hand() -> None:
    # Without right guesses it is plain decoding.
    assert bound_rate([False] * 8, COSTS) == pytest.approx(0.1)
    assert open_flow_rate([False] * 8, COSTS) == pytest.approx(0.1)
    # A free draft needs one pass a run.
    free = Costs(0.0, COSTS.pass_s)
    assert bound_rate([True, True, True, False] * 2, free) == pytest.approx(4 / 13)
    # One that is always right is waited for at most: passes with two guesses take three steps.
    costs = Costs(4.0, {1: 12.0, 16: 12.0})
    assert bound_rate([True] * 300, costs) == pytest.approx(0.25, rel=0.05)
    # The first pass has no guesses. The draft made four in its 12 s, of which the first is for the
    # token that this pass brought; so the second pass has three, and brings four tokens.
    costs = Costs(3.0, {1: 12.0, 16: 12.0})
    assert open_flow_rate([True] * 5, costs) == pytest.approx(5 / 24)


@pytest.mark.parametrize("seed", range(20))
def test_open_flow_is_at_most_the_bound(seed: int) -> None:
    source = random.Random(seed)
    chance = source.uniform(0.2, 1.0)
    right = [source.random() < chance for _ in range(60)]
    costs = Costs(source.choice([1.0, 3.0, 9.0, 30.0]), COSTS.pass_s)
    assert 0 < open_flow_rate(right, costs) <= bound_rate(right, costs) * (1 + 1e-9)
