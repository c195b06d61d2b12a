"""The uniform policy against a search over every gamma, and whom it lets wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.latency import CostTable, NodeCosts
from policies.plan import Batch, Observation, StreamView
from policies.uniform import MAX_AUTO_GAMMA, uniform_plan


def costs(first_s, slope_s=0.0):
    table = CostTable((1, 64), (first_s, first_s + 63 * slope_s))
    return NodeCosts(table, table)


# Passes that cost the same whatever their width: guesses are nearly free on such a target.
FLAT_TARGET = costs(0.1)
FAST_DRAFT = costs(0.001)


def view(stream_id=1, *, alpha=0.8, tokens_left=100, fixed_gamma=None, draft=FAST_DRAFT):
    return StreamView(stream_id, alpha, tokens_left, fixed_gamma, draft)


def plan(*views, target=FLAT_TARGET, **observation):
    return uniform_plan(Observation(tuple(views), target, **observation))


def gammas_of(a_plan):
    return {
        stream_id: gamma
        for batch in a_plan.batches
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True)
    }


def price(gamma, num_streams, alpha, target, draft, rtt_s):
    """Seconds a token of every stream: one pass for each guess, then one to verify them all."""
    seconds = gamma * draft.decode.at(num_streams) + target.decode.at(num_streams * (gamma + 1))
    tokens = sum(alpha**i for i in range(gamma + 1))
    return (seconds + (rtt_s if gamma else 0.0)) / tokens


@given(
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5),
    st.floats(1e-3, 0.1),
    st.floats(0, 0.05),
    st.floats(1e-4, 0.1),
    st.floats(0, 0.1),
)
def test_the_gamma_is_the_cheapest_or_none_where_guesses_promise_too_little(
    alphas, target_s, slope_s, draft_s, rtt_s
):
    target, draft = costs(target_s, slope_s), costs(draft_s)
    views = [view(i, alpha=alpha, draft=draft) for i, alpha in enumerate(alphas)]
    alpha = sum(alphas) / len(alphas)
    prices = [
        price(gamma, len(views), alpha, target, draft, rtt_s) for gamma in range(MAX_AUTO_GAMMA + 1)
    ]
    result = plan(*views, target=target, rtt_s=rtt_s)
    (batch,) = result.batches
    (gamma,) = set(batch.gammas)
    assert batch.stream_ids == tuple(range(len(views)))
    cheapest = min(prices[1:])
    if gamma:
        assert prices[gamma] == pytest.approx(cheapest)
        assert cheapest < prices[0] * 0.97 * (1 + 1e-9)
        assert result.reasons == {}
    else:
        assert cheapest >= prices[0] * 0.97 * (1 - 1e-9)
        assert set(result.reasons) == set(range(len(views)))


def test_guesses_that_lose_are_off_and_the_reason_has_the_figures():
    slow_draft = costs(0.09)
    result = plan(view(alpha=0.5, draft=slow_draft))
    assert gammas_of(result) == {1: 0}
    assert result.reasons[1] == (
        "draft off: 1 guesses make a round of 190 ms worth 1.50 tokens at acceptance 0.50, "
        "a plain step takes 100 ms"
    )


@pytest.mark.parametrize(("gain", "guesses"), [(0.02, False), (0.04, True)])
def test_a_gain_within_the_margin_does_not_count(gain, guesses):
    # One guess at alpha 0.5 is worth 1.5 tokens; further ones lose on this target.
    draft_s = 1e-6
    plain_s = 0.1
    verify_s = 1.5 * plain_s * (1 - gain) - draft_s
    table = CostTable((1, 2, 3), (plain_s, verify_s, 1.0))
    target = NodeCosts(table, table)
    result = plan(view(alpha=0.5, draft=costs(draft_s)), target=target)
    assert gammas_of(result) == {1: 1 if guesses else 0}


def test_a_slow_link_turns_guesses_off():
    assert gammas_of(plan(view(), rtt_s=0.0))[1] > 0
    assert gammas_of(plan(view(), rtt_s=10.0))[1] == 0


def test_many_streams_on_a_busy_target_turn_guesses_off():
    """The width of a pass counts: what pays for one stream need not pay for twenty."""
    table = CostTable((1, 8, 64), (0.1, 0.11, 1.5))
    target = NodeCosts(table, table)
    assert gammas_of(plan(view(), target=target))[1] > 0
    crowd = [view(i) for i in range(20)]
    assert set(gammas_of(plan(*crowd, target=target)).values()) == {0}


def test_no_more_is_guessed_than_tokens_are_left():
    sure = {"alpha": 0.99}
    result = plan(view(1, tokens_left=3, **sure), view(2, tokens_left=1, **sure), view(3, **sure))
    gammas = gammas_of(result)
    assert gammas == {1: 2, 2: 0, 3: MAX_AUTO_GAMMA}
    assert set(result.batches) == {Batch((2,), (0,)), Batch((1, 3), (2, MAX_AUTO_GAMMA))}


def test_a_gamma_asked_for_is_taken_as_it_is():
    hopeless = costs(5.0)
    result = plan(
        view(1, fixed_gamma=12, draft=hopeless, alpha=0.01),
        view(2, fixed_gamma=0),
        view(3, fixed_gamma=12, tokens_left=5),
    )
    assert gammas_of(result) == {1: 12, 2: 0, 3: 4}
    assert result.reasons == {2: "draft off: gamma 0 was asked for"}


def test_a_gamma_asked_for_does_not_count_in_the_choice_for_others():
    free = view(1)
    alone = gammas_of(plan(free))[1]
    beside = gammas_of(plan(free, *[view(i, fixed_gamma=1, alpha=0.0) for i in range(2, 9)]))
    assert beside[1] == alone


def test_without_a_draft_node_a_stream_goes_plainly():
    result = plan(view(1, draft=None, fixed_gamma=4), view(2))
    assert gammas_of(result)[1] == 0
    assert gammas_of(result)[2] > 0
    assert result.reasons == {1: "draft off: no draft node holds the stream"}


def test_without_costs_there_is_nothing_to_choose_by():
    result = plan(view(1), view(2, fixed_gamma=3), target=None)
    assert gammas_of(result) == {1: 0, 2: 3}
    assert result.reasons == {1: "draft off: no measured costs"}


def test_streams_that_guess_wait_while_a_round_is_in_flight():
    views = (view(1), view(2, draft=None), view(3, fixed_gamma=2))
    waiting = plan(*views, num_rounds_in_flight=1)
    assert gammas_of(waiting) == {2: 0}
    assert set(gammas_of(plan(*views))) == {1, 2, 3}


def test_plain_streams_and_guessing_ones_are_batches_of_their_own():
    result = plan(view(1, draft=None), view(2, fixed_gamma=3), view(3, draft=None))
    assert result.batches == (Batch((1, 3), (0, 0)), Batch((2,), (3,)))


def test_nobody_ready_nothing_planned():
    assert plan().batches == ()
