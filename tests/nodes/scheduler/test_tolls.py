"""Guesses of lookup beside what they cost: kept back where they are not worth it, and then leases
instead of rounds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

import pytest

from nodes.messages import CommitEntry, CommitReply, LeaseRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.drafting.lookup import Lookup
from nodes.scheduler.drafting.tolls import Found, Tolls, tolls_of
from nodes.scheduler.instructions import Instruction, ToTarget
from nodes.scheduler.stream import Leased
from policies.latency import CostTable, NodeCosts
from policies.plan import Link, Observation, StreamView
from tests.nodes.builders import make_spec
from tests.nodes.scheduler.script import ONE, TWO, FixedPolicy, commit, length_of, verify_requests

COPY = tuple(range(10, 40))
# A second token makes a pass three times as long; each further one adds little.
STEP = CostTable((1, 2, 32), (10e-3, 30e-3, 60e-3))


STEEP = CostTable((1, 32), (10e-3, 320e-3))
SURE = tuple(accumulate(0.97**k for k in range(1, 17)))


def tolls(num_streams: int = 1, table: CostTable = STEP) -> Tolls:
    views = tuple(StreamView(k, 0.5, 100) for k in range(num_streams))
    found = tolls_of(Observation(views, NodeCosts(table, table)))
    assert found is not None
    return found


def found(gains: Sequence[float], weight: float = 1.0) -> Found:
    return Found(tuple(range(len(gains))), tuple(gains), weight)


def test_guesses_must_gain_more_than_what_is_known_may_err() -> None:
    for two_s, sent in ((19.4e-3, 0), (18.8e-3, 1)):
        table = CostTable((1, 2), (10e-3, two_s))
        assert tolls(1, table).best([found((1.0,))]) == [sent]


def test_few_guesses_do_not_pay_a_step_that_many_do() -> None:
    assert tolls().best([found(SURE[:1])]) == [0]
    assert tolls().best([found(SURE)]) == [16]
    assert tolls().if_all_did(SURE[:1]) == 0
    assert tolls().if_all_did(SURE) == 16


def test_one_does_not_make_many_wait_but_all_may_guess_together() -> None:
    """Tokens cost little beside each other, but what one gains is little beside what seven lose."""
    table = CostTable((1, 8, 200), (10e-3, 20e-3, 70e-3))
    assert tolls(8, table).best([found(SURE[:2])]) == [2]
    table = CostTable((1, 8, 9, 200), (10e-3, 20e-3, 40e-3, 70e-3))
    assert tolls(8, table).best([found(SURE[:8])]) == [0]
    assert min(tolls(8, table).best([found(SURE[:8])] * 8)) >= 5
    assert tolls(8, table).if_all_did(SURE[:8]) == 8
    # Who gains little is left out, and who has nothing.
    some = [found(()), *[found(SURE[:8])] * 6, found((1e-6,))]
    sent = tolls(8, table).best(some)
    assert min(sent[1:7]) >= 5
    assert sent[0] == sent[7] == 0


def test_a_round_is_charged_the_passes_it_takes_and_the_wait_of_all() -> None:
    # A pass of two costs hardly more than one of one.
    made = tolls(4, CostTable((1, 8, 64), (10e-3, 10.1e-3, 12e-3)))
    one, many = [found(SURE[:1])], [found(SURE[:4])]
    assert made.best(one) == [1]
    # With one guess that is nearly sure two passes bring two tokens, as plain ones do.
    assert made.best(one, num_passes=2.0) == [0]
    assert made.best(many, num_passes=2.0) == [4]
    # All four wait, one of them gains.
    assert made.best(many, waits_s=1e-3) == [4]
    assert made.best(many, waits_s=4e-3) == [0]
    assert made.best(many * 4, waits_s=4e-3) == [4] * 4


def test_a_stream_of_more_weight_may_make_others_wait() -> None:
    light = Tolls(STEEP, 4, 0, 4.0)
    assert light.best([found(SURE[:4])]) == [0]
    heavy = Tolls(STEEP, 4, 0, 103.0)
    assert heavy.best([found(SURE[:4], 100.0)]) == [4]


def test_what_is_sent_is_never_dearer_than_no_guesses() -> None:
    source = random.Random(3)
    num_sent = 0
    for _ in range(300):
        sizes = sorted(source.sample(range(1, 100), 6))
        table = CostTable(tuple(sizes), tuple(sorted(source.uniform(0.01, 0.1) for _ in sizes)))
        weights = [source.choice((0.5, 1.0, 4.0)) for _ in range(source.randint(1, 6))]
        some = [
            found(tuple(accumulate(source.random() for _ in range(source.randint(0, 16)))), weight)
            for weight in weights[: source.randint(1, len(weights))]
        ]
        made = Tolls(table, len(weights), 0, sum(weights))
        counts = made.best(some)
        rest = sum(weights) - sum(one.weight for one in some)
        for one, count in zip(some, counts, strict=True):
            assert 0 <= count <= len(one.gains)
            rest += one.weight / (1.0 + ([0.0, *one.gains])[count])
        num_sent += sum(counts) > 0
        plain_price = made.pass_s(0) * sum(weights)
        assert made.pass_s(sum(counts)) * rest <= plain_price * (1 + 1e-9)
    assert 50 < num_sent < 300


def test_nothing_is_known_without_costs_or_streams() -> None:
    costs = NodeCosts(STEP, STEP)
    assert tolls_of(Observation((StreamView(1, 0.5, 9),))) is None
    assert tolls_of(Observation((), costs)) is None


def test_what_a_client_asked_for_is_guessed_at_any_price() -> None:
    lookup = Lookup()
    lookup.tolls = tolls()
    lookup.open(make_spec(prompt=(*COPY, 10, 11), max_tokens=200))
    found = lookup.propose(ONE, 2, 0.0)
    assert found.token_ids == (12, 13)
    assert lookup.worth_sending({ONE: found}) == {ONE: ()}
    scheduler = SchedulerState(FixedPolicy(gamma=2), NodeCosts(STEP, STEP), lookup=True)
    scheduler.admit(make_spec(ONE, prompt=(*COPY, 10, 11), max_tokens=200), 2)
    (request,) = verify_requests(scheduler.target_ready(ONE, 1, 0.0))
    assert request.draft_token_ids == (12, 13)


def test_what_is_kept_back_is_not_taken_for_a_round() -> None:
    """Short matches that prove right promise no more than what is made of them."""
    kept_back, free = Lookup(), Lookup()
    kept_back.tolls = tolls()
    texts = (*COPY, *(token for k in range(30) for token in (100 + k, k % 30 + 10, k % 30 + 11)))
    for lookup in (kept_back, free):
        lookup.open(make_spec(prompt=COPY, max_tokens=400))
        lookup.commit(ONE, texts)
    assert kept_back.acceptance(ONE).starts < free.acceptance(ONE).starts


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
    scheduler.target_link(Link(rtt_s=rtt_s))
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


@pytest.mark.parametrize("looks_a_pass", [1, 2])
def test_streams_that_are_worth_it_together_fall_into_step(looks_a_pass: int) -> None:
    """However often somebody looks between passes: one must not go ahead of the other for ever."""
    step = CostTable((1, 2, 3, 64), (9e-3, 10e-3, 33e-3, 36e-3))
    scheduler = SchedulerState(FixedPolicy(gamma=8), NodeCosts(step, step), lookup=True)
    now, out = 0.0, []
    for stream_id in (ONE, TWO):
        scheduler.admit(make_spec(stream_id, prompt=COPY * 4, max_tokens=900), None)
        out += scheduler.target_ready(stream_id, 1, now)
    sizes = []
    for _ in range(40):
        now += 0.03
        requests = verify_requests(out)
        verified = {e.stream_id: e.num_draft_tokens for r in requests for e in r.entries}
        sizes.append(sorted(verified.values()))
        entries, tokens = [], []
        for stream_id in (ONE, TWO):
            stream = scheduler.stream(stream_id)
            assert stream is not None
            length = len(stream.token_ids)
            num_guesses = verified.get(stream_id, 0)
            if stream_id not in verified and not isinstance(stream.phase, Leased):
                continue
            new = [COPY[(length + k) % len(COPY)] for k in range(num_guesses + 1)]
            tokens += new
            entries.append(
                CommitEntry(stream_id, 1, length, len(new), num_guesses, num_guesses, "", b"x")
            )
        out = scheduler.committed(CommitReply(0.03, tuple(entries), tuple(tokens)), now)
        for _ in range(looks_a_pass - 1):
            out += scheduler.plan(now)
    # What lookup knows of such texts is soon as good as it gets; then both go, pass by pass.
    assert sizes[-20:] == [[8, 8]] * 20


def test_who_has_guesses_goes_on_beside_one_whose_lease_is_long() -> None:
    """Such as one of an older plan: both run out together, and then both go."""
    flat = CostTable((1, 64), (10e-3, 11e-3))
    scheduler = SchedulerState(FixedPolicy(gamma=8), NodeCosts(flat, flat), lookup=True)
    for stream_id in (ONE, TWO):
        scheduler.admit(make_spec(stream_id, prompt=COPY * 4, max_tokens=900), None)
    first = scheduler.stream(ONE)
    assert first is not None
    first.phase = Leased(len(first.token_ids) + 6)
    out = scheduler.target_ready(TWO, 1, 0.0)
    assert leases(out) == [5]
    assert not verify_requests(out)
    for left in range(5, -1, -1):
        entries, tokens = [], []
        for stream_id in (ONE, TWO)[: 1 + (left < 5)]:
            length = length_of(scheduler, stream_id)
            tokens.append(COPY[length % len(COPY)])
            entries.append(CommitEntry(stream_id, 1, length, 1, 0, 0, "", b"x"))
        out = scheduler.committed(CommitReply(0.01, tuple(entries), tuple(tokens)), 0.01)
        assert bool(verify_requests(out)) == (left == 0)
        assert not leases(out)
    (request,) = verify_requests(out)
    assert sorted(entry.stream_id for entry in request.entries) == [ONE, TWO]


@pytest.mark.parametrize(("gamma", "learns"), [(None, False), (4, True)])
def test_rounds_that_are_made_only_where_they_pay_teach_no_laps(
    gamma: int | None, learns: bool
) -> None:
    """They take longer than a plan says, which is of rounds with and without guesses."""
    flat = CostTable((1, 64), (10e-3, 11e-3))
    policy = FixedPolicy(gamma=4, cycle_s=1e-3)
    scheduler = SchedulerState(policy, NodeCosts(flat, flat), lookup=True)
    scheduler.admit(make_spec(ONE, prompt=COPY * 2, max_tokens=900), gamma)
    out, now = scheduler.target_ready(ONE, 1, 0.0), 0.0
    for _ in range(12):
        now += 0.03
        (request,) = verify_requests(out)
        length = length_of(scheduler, ONE)
        new = [COPY[(length + k) % len(COPY)] for k in range(len(request.draft_token_ids) + 1)]
        out = scheduler.committed(commit(ONE, length, new, num_draft_tokens=len(new) - 1), now)
    assert (scheduler._cycle._excess(now) > 0.0) is learns
