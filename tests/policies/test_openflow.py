"""Predictions of open flow: beside a stream that is played pass by pass, and what changes them."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.openflow import open_price_s
from airdraft.policies.plan import DraftView, Link, Observation, StreamView

PASS_S = 0.1
SLOW_LINK = Link(20_000.0, 0.01, "cell", 0.001)


def costs(seconds: float) -> NodeCosts:
    """Passes that take as long whatever is in them."""
    flat = CostTable((1, 64), (seconds, seconds))
    return NodeCosts(flat, flat)


def seen(
    alpha: float = 0.8,
    draft_s: float = 0.02,
    link: Link | None = None,
    num: int = 1,
    other: float = 0.0,
) -> Observation:
    draft = DraftView("d", costs(draft_s), link or Link(), other=other)
    streams = tuple(StreamView(k, alpha, 999, draft="d") for k in range(num))
    return Observation(streams, costs(PASS_S), (draft,))


def played_s(alpha: float, draft_s: float, other: float = 0.0, num_tokens: int = 40_000) -> float:
    """Seconds a token of one stream: guesses are made one after the other, those that are wrong
    are known to be at the end of the pass, and the draft node goes on from there. other: how often
    it has another chain there, of at most the guesses that a pass leaves time for."""
    random = Random(1)
    tokens, now = 0, 0.0
    # Guesses there are beyond the committed text; when the next one is ready.
    ahead, ready_at = 0, draft_s
    while tokens < num_tokens:
        num_right = 0
        while num_right < ahead and random.random() < alpha:
            num_right += 1
        is_wrong = num_right < ahead
        now += PASS_S
        tokens += num_right + 1
        while ready_at <= now:
            ahead += 1
            ready_at += draft_s
        # The target's own token was guessed too, as far as the guesses went.
        left = max(0, ahead - num_right - 1)
        if not is_wrong and random.random() < alpha:
            ahead = left
        elif random.random() < other:
            ahead = min(left, round(PASS_S / draft_s) - 1)
        else:
            ahead, ready_at = 0, now + draft_s
    return now / tokens


@pytest.mark.parametrize("alpha", [0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("draft_s", [0.015, 0.03, 0.045, 0.08])
@pytest.mark.parametrize("other", [0.0, 0.4, 0.8])
def test_a_stream_gets_what_one_that_is_played_gets(
    alpha: float, draft_s: float, other: float
) -> None:
    predicted_s = open_price_s(seen(alpha, draft_s, other=other))
    # How long other chains get is not modelled.
    tolerance = 0.06 if other else 0.04
    assert predicted_s == pytest.approx(played_s(alpha, draft_s, other), rel=tolerance)


def test_without_guesses_that_pay_a_token_takes_a_pass() -> None:
    nobody = replace(seen(), streams=(StreamView(1, 0.8, 99),))
    asked = replace(seen(), streams=(StreamView(1, 0.8, 99, fixed_gamma=0, draft="d"),))
    slower = seen(draft_s=2 * PASS_S)
    steep = CostTable((1, 64), (PASS_S, 64 * PASS_S))
    dear = replace(seen(alpha=0.3), target=NodeCosts(steep, steep))
    for each in (nobody, asked, slower, dear):
        assert open_price_s(each) == pytest.approx(PASS_S)


def test_better_guesses_quicker_ones_and_nearer_ones_make_tokens_cheaper() -> None:
    """And a larger share of the medium, on which guesses are late otherwise."""
    narrow = seen(0.9, 0.01, SLOW_LINK)
    shared = [replace(narrow.drafts[0], share_up=up, share_down=0.3) for up in (0.05, 0.2, 0.6)]
    by_chance = [open_price_s(seen(alpha)) for alpha in (0.3, 0.6, 0.9)]
    by_speed = [open_price_s(seen(draft_s=each)) for each in (0.08, 0.04, 0.01)]
    by_way = [open_price_s(seen(link=Link(rtt_s=each))) for each in (0.5, 0.1, 0.0)]
    by_share = [open_price_s(replace(narrow, drafts=(each,))) for each in shared]
    for prices in (by_chance, by_speed, by_way, by_share):
        assert prices == sorted(prices, reverse=True)
        assert prices[-1] < 0.9 * prices[0]


def test_the_price_is_the_weighted_sum_over_streams() -> None:
    one, four = open_price_s(seen()), open_price_s(seen(num=4))
    assert four == pytest.approx(4 * one)
    observation = seen()
    (view,) = observation.streams
    heavy = replace(observation, streams=(replace(view, weight=3.0),))
    assert open_price_s(heavy) == pytest.approx(3 * one)


def test_what_is_not_known_has_no_price() -> None:
    assert open_price_s(Observation((), costs(PASS_S))) == 0.0
    assert open_price_s(Observation((StreamView(1, 0.5, 9),))) == 0.0
    assert math.isfinite(open_price_s(seen(alpha=1.0)))
