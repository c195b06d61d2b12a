"""An observation as arrays: order, bounds of gamma, seconds by tokens."""

import math
from dataclasses import replace

import pytest

from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import DraftView, Link, Observation, StreamView
from airdraft.policies.problem import problem_of, seconds_upto

COSTS = NodeCosts(CostTable((1, 8), (0.01, 0.08)), CostTable((1,), (0.01,)))


def one(view, *drafts):
    """The problem of one stream, and its only row of everything."""
    return problem_of(Observation((view,), COSTS, drafts or (DraftView("a", COSTS),)))


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, 0, 8),
        ({"tokens_left": 4}, 0, 3),
        ({"tokens_left": 1}, 0, 0),
        ({"tokens_left": 0}, 0, 0),
        ({"fixed_gamma": 3}, 3, 3),
        ({"fixed_gamma": 0}, 0, 0),
        ({"fixed_gamma": 12}, 12, 12),
        ({"fixed_gamma": 12, "tokens_left": 6}, 5, 5),
        ({"draft": None}, 0, 0),
        ({"draft": "gone"}, 0, 0),
        ({"draft": None, "fixed_gamma": 3}, 0, 0),
    ],
)
def test_how_many_guesses_a_stream_may_make(changes, least, most):
    problem = one(replace(StreamView(1, 0.5, 100, draft="a"), **changes))
    assert (problem.least.tolist(), problem.most.tolist()) == ([least], [most])
    assert problem.max_gamma == max(1, most)
    assert problem.earned.shape == (1, max(1, most) + 1)


def test_the_empty_pass_takes_no_time_and_a_table_is_read_from_its_first_size():
    assert seconds_upto(CostTable((4, 8), (0.5, 0.6)), 4).tolist() == [0.0, 0.5, 0.5, 0.5, 0.5]
    assert seconds_upto(CostTable((4,), (0.5,)), 0).tolist() == [0.0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rate_bps": 0.0}, "the rate of a link is 0 bit/s"),
        ({"rate_bps": math.nan}, "the rate of a link is nan"),
        ({"rtt_s": -0.1}, "finite and not negative"),
        ({"rtt_s": math.inf}, "finite and not negative"),
        ({"frame_s": math.nan}, "finite and not negative"),
    ],
)
def test_links_that_cannot_be_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        Link(**changes)
