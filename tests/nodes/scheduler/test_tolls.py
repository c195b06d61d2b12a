"""Guesses of lookup beside what they cost: kept back where they are not worth it, and then leases
instead of rounds."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate

import pytest

from nodes.messages import LeaseRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Instruction, ToTarget
from nodes.scheduler.lookup import Lookup, Tolls, tolls_of
from nodes.scheduler.stream import Leased
from policies.latency import CostTable, NodeCosts
from policies.plan import Observation, StreamView
from tests.nodes.builders import make_spec
from tests.nodes.scheduler.script import ONE, FixedPolicy, commit, length_of, verify_requests

COPY = tuple(range(10, 40))
# A second token makes a pass three times as long; each further one adds little.
STEP = CostTable((1, 2, 32), (10e-3, 30e-3, 60e-3))


def tolls(num_streams: int = 1, table: CostTable = STEP) -> Tolls:
    views = tuple(StreamView(k, 0.5, 100) for k in range(num_streams))
    found = tolls_of(Observation(views, NodeCosts(table, table)))
    assert found is not None
    return found


def test_few_guesses_do_not_pay_a_step_that_many_do() -> None:
    sure = list(accumulate([0.97**k for k in range(1, 17)]))
    assert tolls().best(sure[:1], 1.0) == 0
    assert tolls().best(sure[:16], 1.0) == 16
    # Nor where a token costs what it is worth and seven others wait for it.
    assert tolls(8, CostTable((1, 32), (10e-3, 320e-3))).best(sure, 1.0) == 0


def test_the_number_taken_makes_the_pass_cheapest_of_all_numbers() -> None:
    source = random.Random(3)
    several = set()
    for _ in range(300):
        seconds = sorted(source.uniform(0.01, 0.1) for _ in range(17))
        weights = [source.choice((0.5, 1.0, 4.0)) for _ in range(source.randint(1, 5))]
        gains = list(accumulate(source.random() for _ in range(source.randint(0, 16))))
        prices = [
            seconds[k] * (sum(weights[1:]) + weights[0] / (1 + ([0.0, *gains])[k]))
            for k in range(len(gains) + 1)
        ]
        found = Tolls(tuple(seconds), sum(weights)).best(gains, weights[0])
        assert math.isclose(prices[found], min(prices))
        several.add(found)
    assert len(several) > 8


def test_nothing_is_known_without_costs_or_streams() -> None:
    costs = NodeCosts(STEP, STEP)
    assert tolls_of(Observation((StreamView(1, 0.5, 9),))) is None
    assert tolls_of(Observation((), costs)) is None


def test_what_a_client_asked_for_is_guessed_at_any_price() -> None:
    lookup = Lookup()
    lookup.tolls = tolls()
    lookup.open(make_spec(prompt=(*COPY, 10, 11), max_tokens=200))
    assert lookup.propose(ONE, 4, 0.0) == ()
    assert lookup.propose(ONE, 4, 0.0, is_asked=True) == (12, 13, 14, 15)


def test_what_is_kept_back_is_not_taken_for_a_round() -> None:
    """Short matches that prove right promise no more than what is made of them."""
    kept_back, free = Lookup(), Lookup()
    kept_back.tolls = tolls()
    texts = (*COPY, *(token for k in range(30) for token in (100 + k, k % 30 + 10, k % 30 + 11)))
    for lookup in (kept_back, free):
        lookup.open(make_spec(prompt=COPY, max_tokens=400))
        lookup.commit(ONE, texts)
    assert kept_back.acceptance(ONE).none > free.acceptance(ONE).none


def leases(instructions: Sequence[Instruction]) -> list[int]:
    """Tokens of the leases among them."""
    messages = [i.message for i in instructions if isinstance(i, ToTarget)]
    requests = [message for message in messages if isinstance(message, LeaseRequest)]
    return [entry.num_tokens for request in requests for entry in request.entries]


@pytest.mark.parametrize(("rtt_s", "wanted"), [(0.0, 2), (5e-3, 2), (25e-3, 4)])
def test_a_stream_without_a_match_goes_on_by_leases_until_there_is_one(
    rtt_s: float, wanted: int
) -> None:
    scheduler = SchedulerState(FixedPolicy(gamma=16), NodeCosts(STEP, STEP), lookup=True)
    spec = make_spec(ONE, prompt=COPY, max_tokens=400)
    scheduler.admit(spec, None)
    scheduler.target_link(rtt_s)
    out = scheduler.target_ready(ONE, 1, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert leases(out)[:1] == [2]
    out, now = [], 0.0
    for token_id in range(500, 520):
        now += 0.01
        reply = commit(ONE, length_of(scheduler, ONE), [token_id], pass_s=0.01)
        out += scheduler.committed(reply, now)
        # It is renewed before it has run out: the target never waits.
        assert isinstance(stream.phase, Leased)
        assert stream.phase.end > len(stream.token_ids)
    assert not verify_requests(out)
    assert max(leases(out)) == wanted
    # What has been before comes again: the lease runs out, and a round begins.
    copied = iter(COPY)
    while not verify_requests(out):
        now += 0.01
        out += scheduler.committed(commit(ONE, length_of(scheduler, ONE), [next(copied)]), now)
    (request,) = verify_requests(out)
    assert len(request.draft_token_ids) > 8
    assert request.draft_token_ids[0] == next(copied)
