"""What becomes of the parameters of a request, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.engine.rules import LogitBias, LogitRules
from nodes.engine.sampling import Sampling
from nodes.messages import OpenStreamRequest, StartedNotice
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import CLIENT, DRAFT, TARGET, Mesh, make_mesh

KIND = {"numerics_class": "integers", "model_hash": "toy-0-1"}


def resumed(*resume_from: int, committed: tuple[int, ...] = (), **changes: Any) -> dict[str, Any]:
    """Fields of a request that began on a toy with another coordinator."""
    return {
        "num_choices": len(resume_from),
        "resume_from": resume_from,
        "prompt_token_ids": (*PROMPT, *committed),
        **KIND,
        **changes,
    }


def streams_of(asked: dict[str, Any]) -> list[OpenStreamRequest]:
    return make_mesh().submit(**asked).openings()


def test_the_choices_of_a_request_are_streams_that_differ_in_their_noise_only() -> None:
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1}
    streams = streams_of({"num_choices": 3, "stops": ("x",), **sampling})
    assert [s.stream_id for s in streams] == [1, 2, 3]
    assert [s.sampling for s in streams] == [
        Sampling(seed=7, choice=k, **sampling) for k in (0, 1, 2)
    ]
    assert {(s.token_ids, s.num_prompt_tokens, s.generation, s.stops) for s in streams} == {
        (PROMPT, 3, 1, ("x",))
    }


def test_a_request_without_a_seed_draws_one_and_tells_it(mesh: Mesh) -> None:
    seeds = []
    for number in range(5):
        sends = mesh.submit(number, seed=-1)
        (started,), (stream,) = sends.said(StartedNotice), sends.openings()
        assert started.seed == stream.sampling.seed
        seeds.append(started.seed)
    assert len(set(seeds)) > 1
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert [s.sampling.seed for s in streams_of({"seed": 0})] == [0]


def test_twice_the_priority_weighs_twice_as_much() -> None:
    weights = [stream.weight for p in (1, 5, 10) for stream in streams_of({"priority": p})]
    assert weights == [0.2, 1.0, 2.0]


@pytest.mark.parametrize("emulated", [(), ("target",), ("draft",)])
def test_an_answer_is_called_emulated_if_one_of_its_nodes_is(emulated: tuple[str, ...]) -> None:
    mesh = Mesh()
    for peer, role in ((TARGET, "target"), (DRAFT, "draft")):
        mesh.join(peer, role, make_profile(emulated=role in emulated))
    mesh.join(CLIENT, "client")
    (started,) = mesh.submit().said(StartedNotice)
    assert started.emulated == bool(emulated)


EMPTY = "the prompt is empty: give some text or token ids"
OUTSIDE = "token id 96 is outside the vocabulary of toy-1"
SHORTER = "shorten the prompt or lower --max-tokens"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"temperature": -1.0}, "temperature -1.0 outside 0..100"),
        ({"temperature": float("nan")}, "temperature nan outside 0..100"),
        ({"top_p": 0.0}, "top_p 0.0 outside (0, 1]"),
        ({"min_p": 1.5}, "min_p 1.5 outside 0..1"),
        ({"rules": LogitRules(presence_penalty=3.0)}, "presence_penalty 3.0 outside -2..2"),
        ({"rules": LogitRules((LogitBias(96, 1.0),))}, f"logit_bias: {OUTSIDE}"),
        ({"max_tokens": 0}, "max_tokens is 0: it must be at least 1 unless the prompt is scored"),
        ({"prompt_token_ids": ()}, EMPTY),
        ({"prompt_token_ids": (96,)}, OUTSIDE),
        (
            {"max_tokens": 5000},
            "context overflow: 3 prompt tokens + 5000 to generate exceed the 4096 of toy-1: "
            + SHORTER,
        ),
        # Those that began elsewhere.
        (
            resumed(1, num_choices=2, committed=(8,)),
            "resume_from: give one number per choice, at least one not negative",
        ),
        (resumed(-1, -1), "resume_from: give one number per choice, at least one not negative"),
        (resumed(8, committed=(8,) * 8), "resume_from: one choice already has max_tokens tokens"),
        (
            resumed(5, prompt_token_ids=(1, 2)),
            "resume_from: its numbers exceed the number of token ids",
        ),
        (resumed(3, prompt_token_ids=(1, 2, 3)), EMPTY),
        (resumed(1, committed=(96,)), OUTSIDE),
    ],
)
def test_bad_requests_are_refused_with_a_line_and_leave_nothing(
    changes: dict[str, Any], reason: str
) -> None:
    mesh = make_mesh()
    assert mesh.submit(**changes).failure() == ("bad_request", reason)
    assert mesh.submit(max_tokens=1).opened() != []


def test_what_fits_no_message_or_no_target_is_refused_with_the_numbers() -> None:
    long = {"prompt_token_ids": (9,) * 131_072}
    mesh = make_mesh(context_length=1 << 18, num_cells=1 << 18)
    _, reason = mesh.submit(**long).failure()
    overflow = "context overflow: 131072 prompt tokens + 8 to generate exceed the 131072 tokens"
    assert reason == f"{overflow} of a message: {SHORTER}"
    _, reason = make_mesh(num_cells=26).submit().failure()
    overflow = "3 prompt tokens + 8 to generate + 16 guesses exceed the 26 cells of toy-1"
    assert reason.startswith(f"context overflow: {overflow}: ")


# -- those that began with another coordinator -----------------------------------------------------


def test_streams_of_a_request_that_goes_on_are_those_that_are_not_over() -> None:
    streams = streams_of(resumed(2, -1, 0, 1, committed=(8, 9, 10)))
    assert [s.sampling.choice for s in streams] == [0, 2, 3]
    assert [s.token_ids for s in streams] == [(*PROMPT, 8, 9), PROMPT, (*PROMPT, 10)]
    assert {s.num_prompt_tokens for s in streams} == {3}


def test_a_prompt_with_tokens_after_it_is_not_scored_again() -> None:
    streams = streams_of(resumed(1, 0, committed=(8,), scores_prompt=True))
    assert [s.scores_prompt for s in streams] == [False, False]
    (stream,) = streams_of(resumed(-1, 0, scores_prompt=True))
    assert (stream.scores_prompt, stream.sampling.choice) == (True, 1)
