"""What becomes of the parameters of a request, what is refused, and how long a request lasts."""

from __future__ import annotations

from typing import Any

import pytest

from airdraft.nodes.config.settings import LimitSettings
from airdraft.nodes.coordinator.requests.classes import STRANDED_LIMIT_S
from airdraft.nodes.coordinator.requests.submission import prompt_hash
from airdraft.nodes.engine.rules import LogitBias, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages import (
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    TokenizeRequest,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    make_mesh,
    mesh_of,
)

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


# -- going on with them ----------------------------------------------------------------------------


def test_it_goes_on_where_its_client_is(mesh: Mesh) -> None:
    sends = mesh.submit(**resumed(2, committed=(8, 9)))
    (there,) = sends.openings()
    assert (there.token_ids, there.num_prompt_tokens) == ((*PROMPT, 8, 9), 3)
    started = sends.to(CLIENT)[0]
    told = started.num_prompt_tokens, started.numerics_class, started.model_hash
    assert told == (3, *KIND.values())
    assert (started.prompt_hash, started.limit_s) == (prompt_hash(PROMPT), 3600.0)
    tokens, finished = mesh.finish(1, 5, token_ids=(7,), text=b"!").to(CLIENT)
    assert tokens == TokensNotice(1, 0, 2, b"!", (7,), is_last=True)
    assert finished.num_tokens == 3
    assert mesh.num_under_way() == 0


def test_it_waits_for_targets_to_come_back_while_new_ones_are_refused() -> None:
    mesh = mesh_of()
    assert mesh.submit(1, **resumed(1, committed=(8,))) == []
    assert mesh.submit(2, **resumed(2, prompt="hi", prompt_token_ids=(8, 9))) == []
    assert mesh.submit(3).failure()[0] == "unavailable"
    sends = mesh.join(TARGET, "target", make_profile())
    assert [m.token_ids for m in sends.openings()] == [(*PROMPT, 8)]
    (question,) = sends.said(TokenizeRequest, TARGET)
    assert question.prompt == "hi"
    sends = mesh.tokenized(question.request_id, 4)
    assert [m.token_ids for m in sends.openings()] == [(4, 8, 9)]
    assert mesh.tick(STRANDED_LIMIT_S + 1.0).to(CLIENT) == []
    assert mesh.num_under_way(STRANDED_LIMIT_S + 1.0) == 2


def test_it_does_not_wait_for_ever() -> None:
    mesh = mesh_of()
    mesh.submit(1, **resumed(1, committed=(8,)))
    mesh.submit(2, **resumed(1, prompt="hi", prompt_token_ids=(8,)))
    mesh.submit(3, **resumed(1, committed=(8,)))
    mesh.cancel(3)
    assert mesh.tick(STRANDED_LIMIT_S - 0.1).to(CLIENT) == []
    sends = mesh.tick(STRANDED_LIMIT_S)
    assert sends.failures() == [(1, "unavailable"), (2, "unavailable")]
    assert sends.said(RequestFailedNotice)[0].reason == (
        "no present target can continue this request; no other suitable target joined within 30 s"
    )
    assert mesh.join(TARGET, "target", make_profile()).opened() == []


@pytest.mark.parametrize(
    ("asked", "changes", "does"),
    [
        (resumed(0), {"numerics_class": "other"}, False),
        (resumed(0), {"model_hash": "other"}, False),
        (resumed(0, numerics_class=""), {"model_hash": "other"}, False),
        (resumed(0, numerics_class=""), {"numerics_class": "other"}, True),
        (resumed(0, numerics_class="", **TEXT_PROMPT), {"numerics_class": "other"}, True),
        (resumed(0, is_exact=True), {"exact": False}, False),
        (resumed(0), {"exact": False}, True),
        (resumed(1, committed=(8,)), {"num_cells": 20, "context_length": 20}, False),
    ],
    ids=[
        *("another class", "another model", "no class and another model", "any class"),
        *("any class for a text", "no longer exact", "was not exact", "too small"),
    ],
)
def test_it_waits_for_a_target_that_gives_the_same_text(
    asked: dict[str, Any], changes: dict[str, Any], does: bool
) -> None:
    mesh = mesh_of()
    mesh.join(OTHER, "target", make_profile(**changes))
    sends = mesh.submit(**asked)
    assert sends.where() + sends.where(TokenizeRequest) == (["other"] if does else [])
    sends = mesh.join(TARGET, "target", make_profile())
    assert sends.where() == ([] if does else ["target"])


def test_a_target_that_is_being_drained_does_for_what_began_on_its_kind(mesh: Mesh) -> None:
    # It leaves when it is empty, and is asked for its name only.
    mesh.submit(9)
    mesh.command("drain", "target")
    assert len(mesh.submit(1, **resumed(1, committed=(8,))).opened()) == 1
    assert mesh.submit(3).failure()[0] == "unavailable"


def test_a_text_that_reads_otherwise_by_now_is_not_gone_on_with(mesh: Mesh) -> None:
    fields = {"prompt": "hi", "prompt_token_ids": (8,), "prompt_hash": prompt_hash((4, 5))}
    for number, ids in ((1, (4, 5)), (2, (5, 4))):
        (question,) = mesh.submit(number, **resumed(1, **fields)).said(TokenizeRequest)
        sends = mesh.tokenized(question.request_id, *ids)
        assert len(sends.opened()) == (ids == (4, 5))
    code, reason = sends.failure()
    assert (code, reason.partition(":")[0]) == (
        "internal",
        "the prompt has other token ids than when the request began",
    )


@pytest.mark.parametrize(("role", "order"), [("client", [2, 3]), ("gateway", [3, 2])])
def test_the_word_of_a_client_is_no_place_in_the_line_that_of_a_gateway_is(
    role: str, order: list[int]
) -> None:
    mesh = Mesh()
    mesh.join(CLIENT, role)
    mesh.join(TARGET, "target", make_profile(max_streams=1))
    mesh.submit(1)
    mesh.submit(2, 1.0)
    mesh.submit(3, 2.0, **resumed(1, committed=(8,)))
    served = [1]
    for _ in order:
        served += mesh.finish(served[-1], 4 if served[-1] == 3 else 3).opened()
    assert served == [1, *order]


def test_limits_are_those_of_others() -> None:
    mesh = Mesh(limits=LimitSettings(max_waiting=2, max_requests=2))
    mesh.join(CLIENT, "client")
    assert mesh.submit(1, **resumed(0, 0)) == []
    assert mesh.submit(2, **resumed(0)).failure()[0] == "overloaded"
    mesh.cancel(1)
    assert mesh.submit(2, **resumed(0)) == []


# -- the time that requests have -------------------------------------------------------------------


def test_a_request_ends_by_its_deadline_with_a_code_of_its_own_and_makes_room() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(1, 5.0, deadline_s=4.0)
    mesh.finish(1)
    mesh.submit(2, 5.0, deadline_s=10.0)
    mesh.submit(3, 5.0, deadline_s=10.0)
    mesh.submit(4, 5.0)
    assert mesh.tick(14.9).to(CLIENT) == []
    sends = mesh.tick(15.0)
    for failed in sends.said(RequestFailedNotice):
        assert failed.code == "deadline"
        assert failed.reason == "the request was not done within its 10 s"
    # The waiting one that ends with it does not get its place first.
    assert sends.opened() == [4]
    status = mesh.status(15.0)
    assert [stream.stream_id for stream in status.streams] == [4]
    assert status.totals.requests["deadline"] == 2


def test_nobody_gets_more_time_than_the_coordinator_gives() -> None:
    mesh = make_mesh(limits=LimitSettings(max_request_s=20.0))
    assert mesh.submit(1, deadline_s=1000.0).to(CLIENT)[0].limit_s == 20.0
    mesh.submit(2, **TEXT_PROMPT)
    assert sorted(mesh.tick(20.0).failures()) == [(1, "deadline"), (2, "deadline")]
    assert mesh.num_under_way(20.0) == 0


@pytest.mark.parametrize("how", ["deadline", "unavailable"])
def test_requests_that_end_together_are_told_a_few_at_a_time(how: str) -> None:
    """A client takes only so many messages."""
    mesh = Mesh(limits=LimitSettings(max_requests=1000, max_waiting=1000))
    mesh.join(CLIENT, "client")
    if how == "deadline":
        mesh.join(TARGET, "target", make_profile(max_streams=1))
    asked = {"deadline_s": 30.0} if how == "deadline" else resumed(0)
    for number in range(600):
        mesh.submit(number, **asked)
    told = [mesh.tick(STRANDED_LIMIT_S).failures() for _ in range(4)]
    assert max(map(len, told)) < 300
    ended = sorted(failed for each in told for failed in each)
    assert ended == [(number, how) for number in range(600)]
