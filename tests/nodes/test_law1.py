"""Law 1: whatever drafts, plans and links do, a stream becomes what it would alone.

AIRDRAFT_LAW1_CASES=10000 pytest tests/nodes/test_law1.py runs the long form.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airdraft.nodes.engine.toy import ToyConfig
from airdraft.nodes.messages import MAX_GAMMA, SubmitRequest
from tests.nodes.builders import make_submit
from tests.nodes.machine.asking import submits
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World

NUM_CASES = int(os.environ.get("AIRDRAFT_LAW1_CASES", "150"))
# Of a mesh whose targets may die; with more of them a request would be taken for the reason.
_MOST_DEATHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run. cancelled: some of the requests. num_troubles: faults while they are served."""

    setup: Setup
    role: str
    submits: tuple[SubmitRequest, ...]
    uploaded: frozenset[int]
    cancelled: frozenset[int]
    num_troubles: int


_drafts = st.builds(
    draft,
    st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]),
    num_cells=st.sampled_from([60, 120, 300, 1000]),
    max_sequences=st.integers(1, 5),
    max_batch_tokens=st.sampled_from([2, 16, 64]),
)


@st.composite
def cases(draw: st.DrawFn, most_targets: int) -> Case:
    num_vocab = draw(st.sampled_from([4, 12, 96]))
    numbers = range(1, 1 + draw(st.integers(1, 5)))
    asked = tuple(draw(submits(number, num_vocab)) for number in numbers)
    some = st.sets(st.sampled_from(numbers), max_size=2).map(frozenset)
    largest = max(len(s.prompt_token_ids or s.prompt) + s.max_tokens + MAX_GAMMA for s in asked)
    # The largest stream fits alone, not always with others.
    cells = st.integers(0, 300).map(lambda room: largest + room)
    setup = Setup(
        toy=ToyConfig(
            num_vocab=num_vocab,
            max_sequences=draw(st.integers(1, 5)),
            max_batch_tokens=draw(st.sampled_from([MAX_GAMMA + 1, 24, 64])),
            seed=draw(st.integers(0, 1000)),
            eog_rate=draw(st.sampled_from([0.0, 0.0, 0.05])),
        ),
        target_cells=tuple(draw(st.lists(cells, min_size=1, max_size=most_targets))),
        drafts=tuple(draw(st.lists(_drafts, max_size=2))),
        has_grammars=draw(st.sampled_from([True, True, False])),
        has_wild_policy=draw(st.booleans()),
        has_lookup=draw(st.booleans()),
        # Toy positions take 8 bytes: room for nothing, for a text or so, for all.
        prefix_cache_bytes=draw(st.sampled_from([0, 1000, 100_000])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    return Case(
        setup=setup,
        role=draw(st.sampled_from(["client", "gateway"])) if most_targets == 1 else "gateway",
        submits=asked,
        uploaded=draw(some),
        cancelled=draw(some),
        num_troubles=draw(st.integers(0, 8)),
    )


def run(case: Case) -> None:
    """Ask as a case has it, and see to its troubles: after each of them everything goes on."""
    world = World(case.setup)
    client = world.join(case.role)
    for submit in case.submits:
        world.submit(client, submit, is_uploaded=submit.request_id in case.uploaded)
        world.go_on(world.random.randrange(60))
    to_cancel = [client.asked[number] for number in case.cancelled]
    deaths_left, first = _MOST_DEATHS, world.coordinator
    for number in range(case.num_troubles):
        deaths_left -= trouble(world, may_kill_targets=deaths_left > 0)
        world.go_on(world.random.randrange(200))
        if number < len(to_cancel):
            client.cancel(to_cancel[number])
    world.settle()
    for asked in client.asked.values():
        assert asked.is_whole or asked.is_cancelled, asked.failure
    if world.coordinator is first and not case.cancelled:
        # Every token that a client was told was counted once, wherever it came from.
        status = world.check_empty()
        counted = sum(sum(target.counts.tokens.values()) for target in status.targets)
        assert counted == sum(len(ids) for a in client.asked.values() for ids in a.token_ids)


def trouble(world: World, *, may_kill_targets: bool) -> bool:
    """Something happens to guesses, a node or the coordinator; a lone target is spared, and so is
    its coordinator. Returns whether a target was lost of it."""
    has_targets = len(world.setup.target_cells) > 1
    nodes = world.nodes("" if has_targets else "draft")
    kinds = ["upset", "kill", "break", "drain"] + ["restart"] * has_targets
    kind = world.random.choice(kinds) if nodes else "upset"
    if kind == "upset":
        world.upset_guesses()
        return False
    if kind == "restart":
        world.restart_coordinator()
        return False
    node = world.random.choice(nodes)
    if kind == "drain":
        world.command("drain", node.name)
        world.go_on(world.random.randrange(100))
        world.command("undrain", node.name)
        return False
    is_target = node.role == "target"
    if is_target and not may_kill_targets:
        return False
    if kind == "kill":
        world.kill(node, loses=world.random.random() < 0.5, notice_s=0.0)
        world.go_on(world.random.randrange(100))
        world.start_what_is_missing()
    else:
        world.break_connection(node, notice_s=0.0, away_s=0.2)
    return is_target


# To find a smaller case of what fails takes minutes.
_settings = settings(
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=(Phase.generate,),
    print_blob=True,
)


@pytest.mark.slow
@pytest.mark.timeout(max(600, 2 * NUM_CASES))
@settings(_settings, max_examples=NUM_CASES)
@given(case=cases(most_targets=1))
def test_every_stream_becomes_what_it_would_alone(case: Case) -> None:
    """Draft nodes come and go; guesses are lost, repeated and overtaken."""
    run(case)


@pytest.mark.slow
@pytest.mark.timeout(max(600, 2 * NUM_CASES))
@settings(_settings, max_examples=NUM_CASES // 3)
@given(case=cases(most_targets=3))
def test_every_stream_becomes_what_it_would_alone_on_whichever_target(case: Case) -> None:
    """Targets of one class leave, die and are drained; requests go from one to the other, and their
    clients with them from one coordinator to the next. No request fails of that."""
    run(case)


@settings(_settings, max_examples=10, derandomize=True)
@given(case=cases(most_targets=2))
def test_a_few_runs_in_which_every_stream_becomes_what_it_would_alone(case: Case) -> None:
    run(case)


def test_guesses_are_taken_where_passes_take_longer_than_they() -> None:
    """Otherwise the tests above would say little."""
    world = World(Setup(target_cells=(1000,), drafts=(draft(0.9, num_cells=1000),)))
    client = world.join()
    for number in (1, 2):
        world.submit(client, make_submit(number, max_tokens=200, ignore_eog=True))
    world.settle()
    (target,) = world.coordinator.state.roster.targets()
    scheduler = target.scheduler
    assert scheduler.counts.tokens["accepted"] > 100
