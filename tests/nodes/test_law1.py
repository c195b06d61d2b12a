"""Law 1: whatever drafts, plans and links do, a stream becomes what it would alone.

AIRDRAFT_LAW1_CASES=10000 pytest tests/nodes/test_law1.py runs the long form.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodes.engine.rules import NO_RULES, Grammar, LogitBias, LogitRules
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig
from nodes.messages import MAX_GAMMA
from tests.nodes.cluster_case import ClusterCase
from tests.nodes.pure_cluster import PureCluster
from tests.nodes.pure_mesh import Case, DraftCase, PureMesh, StreamCase, guessed_case

NUM_CASES = int(os.environ.get("AIRDRAFT_LAW1_CASES", "150"))

# What the pieces of the toy's tokens, " 1", " 2" and so on, can spell.
_grammars = st.sampled_from(
    [
        Grammar("gbnf", 'root ::= (" 1" | " 2" " 1"?)+ " 3"'),
        Grammar("gbnf", 'root ::= (" " [1-3] [0-9]?)+'),
        Grammar("gbnf", 'root ::= " 2"* (" 1" | " 3")'),
        Grammar("gbnf", 'root ::= (" " [1-9] [0-9]?){3,20}'),
    ]
)
_rules = st.builds(
    LogitRules,
    logit_bias=st.lists(
        st.builds(LogitBias, st.integers(0, 3), st.sampled_from([-100.0, -2.5, 1.7, 6.0])),
        max_size=3,
    ).map(tuple),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.3, -0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4, -0.1]),
    grammar=st.just(Grammar()) | _grammars,
)
_samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 20]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    seed=st.integers(0, 2**63 - 1),
    choice=st.integers(0, 3),
    rules=st.just(NO_RULES) | _rules,
)


def _prompts(num_vocab: int, max_size: int = 60) -> st.SearchStrategy[tuple[int, ...]]:
    ids = st.integers(1, num_vocab - 1)
    short = st.lists(ids, min_size=1, max_size=max_size)
    # Lists are mostly short: some must be worth sharing.
    return (short | st.lists(ids, min_size=max_size // 2, max_size=max_size)).map(tuple)


def _streams(num_vocab: int, shared: tuple[int, ...]) -> st.SearchStrategy[StreamCase]:
    own = _prompts(num_vocab)
    return st.builds(
        StreamCase,
        # Prefixes that streams have in common are prefilled once.
        prompt=own | st.just(shared) | _prompts(num_vocab, 3).map(lambda tail: shared + tail),
        max_tokens=st.integers(1, 80) | st.integers(120, 240),
        sampling=_samplings,
        stops=st.lists(st.text("0123 ", min_size=2, max_size=4), max_size=2).map(tuple),
        ignore_eog=st.booleans(),
        gamma=st.sampled_from([None, None, *range(9)]),
        is_cancelled=st.sampled_from([False, False, False, True]),
        num_logprobs=st.sampled_from([-1, -1, -1, 0, 2]),
        scores_prompt=st.sampled_from([False, False, True]),
    ).map(_without_tokens)


def _without_tokens(stream: StreamCase) -> StreamCase:
    """Of some prompts only the scores are wanted."""
    only_scores = stream.scores_prompt and stream.max_tokens % 4 == 0
    return replace(stream, max_tokens=0) if only_scores else stream


_drafts = st.builds(
    DraftCase,
    agreement=st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]),
    num_cells=st.sampled_from([60, 120, 300, 1000]),
    max_sequences=st.integers(1, 5),
    max_batch_tokens=st.sampled_from([2, 16, 64]),
    starts_alive=st.sampled_from([True, True, True, False]),
    has_grammars=st.sampled_from([True, True, True, False]),
)


@st.composite
def _work(draw: st.DrawFn) -> tuple[ToyConfig, tuple[StreamCase, ...]]:
    num_vocab = draw(st.sampled_from([4, 12, 96]))
    shared = draw(_prompts(num_vocab))
    streams = tuple(draw(st.lists(_streams(num_vocab, shared), min_size=1, max_size=5)))
    largest = max(len(s.prompt) + s.max_tokens + MAX_GAMMA for s in streams)
    target = ToyConfig(
        num_vocab=num_vocab,
        # The largest stream fits alone, not always with others.
        num_cells=largest + draw(st.integers(0, 300) | st.integers(0, 60)),
        max_sequences=draw(st.integers(1, 5)),
        max_batch_tokens=draw(st.sampled_from([MAX_GAMMA + 1, 24, 64])),
        seed=draw(st.integers(0, 1000)),
        eog_rate=draw(st.sampled_from([0.0, 0.0, 0.05])),
    )
    return target, streams


@st.composite
def cases(draw: st.DrawFn) -> Case:
    target, streams = draw(_work())
    return Case(
        target=target,
        drafts=tuple(
            draw(st.lists(_drafts, min_size=draw(st.sampled_from([0, 1, 1, 1])), max_size=2))
        ),
        streams=streams,
        num_churns=draw(st.integers(0, 5)),
        num_upset=draw(st.integers(0, 4)),
        has_wild_policy=draw(st.booleans()),
        has_lookup=draw(st.booleans()),
        # Toy positions take 8 bytes: room for nothing, for a text or so, for all.
        prefix_cache_bytes=draw(st.sampled_from([0, 1000, 100_000])),
        pass_moves=draw(st.sampled_from([0, 8, 30, 100])),
        moves=draw(st.binary(max_size=64)),
        move_seed=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def cluster_cases(draw: st.DrawFn) -> ClusterCase:
    target, streams = draw(_work())
    return ClusterCase(
        target=target,
        num_targets=draw(st.integers(1, 3)),
        drafts=tuple(draw(st.lists(_drafts, max_size=2))),
        streams=streams,
        num_choices=tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in streams),
        num_deaths=draw(st.integers(0, 3)),
        num_draft_deaths=draw(st.integers(0, 2)),
        num_moves=draw(st.integers(0, 6)),
        num_restarts=draw(st.sampled_from([0, 0, 1, 2, 4])),
        num_commands=draw(st.sampled_from([0, 0, 1, 4, 8])),
        plans_later=draw(st.booleans()),
        num_lost=draw(st.sampled_from([0, 0, 1, 3])),
        role=draw(st.sampled_from(["client", "gateway"])),
        ways=tuple((draw(st.booleans()), draw(st.booleans())) for _ in streams),
        has_wild_policy=draw(st.booleans()),
        has_lookup=draw(st.booleans()),
        moves=draw(st.binary(max_size=64)),
        move_seed=draw(st.integers(0, 2**32 - 1)),
    )


@pytest.mark.slow
@pytest.mark.timeout(max(300, NUM_CASES // 4))
@settings(max_examples=NUM_CASES, suppress_health_check=list(HealthCheck), database=None)
@given(case=cases())
def test_every_stream_becomes_what_it_would_alone(case: Case) -> None:
    PureMesh(case).run()


@pytest.mark.slow
@pytest.mark.timeout(max(300, NUM_CASES // 4))
@settings(
    max_examples=NUM_CASES // 4,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(case=cluster_cases())
def test_every_stream_becomes_what_it_would_alone_on_whichever_target(case: ClusterCase) -> None:
    """Targets of one class join, leave, die and are drained; requests go from one to the other, and
    their clients with them from one coordinator to the next."""
    PureCluster(case).run()


def test_guesses_are_taken_where_passes_take_longer_than_they() -> None:
    """Or the tests above would say little."""
    mesh = PureMesh(guessed_case())
    mesh.run()
    counts = mesh.scheduler.counts
    assert counts.tokens["accepted"] > 100
