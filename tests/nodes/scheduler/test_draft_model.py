"""What is known of a draft model, and what streams fall back on."""

from __future__ import annotations

import pytest

from nodes.scheduler.drafting.draft_model import DraftModel
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.stream import Stream
from policies.acceptance import AcceptanceEstimate
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS


def bad(model: DraftModel) -> None:
    for _ in range(300):
        model.acceptance.observe(4, 0)


def test_what_was_measured_is_a_beginning_and_no_more() -> None:
    model = DraftModel()
    stream = model.of_one()
    model.expect(AcceptanceEstimate(9.0, 1.0).told(0.8))
    assert (model.acceptance.alpha, model.acceptance.kept) == pytest.approx((0.9, 0.8))
    # A second node of it, and streams that were there before, have the same.
    model.expect(AcceptanceEstimate(1.0, 9.0))
    assert stream.alpha == pytest.approx(0.9)
    bad(model)
    assert model.acceptance.alpha < 0.2
    assert stream.alpha == pytest.approx(model.acceptance.alpha)
    model.expect(AcceptanceEstimate(9.0, 1.0))
    assert model.acceptance.alpha < 0.2


def test_a_stream_that_moves_to_another_model_falls_back_on_that_one() -> None:
    pool = DraftPool()
    for name in ("a", "b"):
        pool.add(DraftNode(name, DRAFT_COSTS, model=pool.model(name)))
    stream = Stream(make_spec(1), list(PROMPT), None)
    pool.place(stream)
    assert stream.draft is not None
    here = stream.draft.node
    (other,) = {"a", "b"} - {here}
    bad(pool[here].model)
    for _ in range(10):
        stream.acceptance.observe(4, 4)
    before = stream.acceptance
    pool.displace(stream)
    stream.keep_off(here)
    pool.place(stream)
    assert stream.acceptance.basis is pool[other].model.acceptance
    assert stream.acceptance.alpha > before.alpha
    # What is learnt from now on is of this one alone.
    stream.acceptance.observe(4, 0)
    assert stream.known[here] is before
    assert before.judged != stream.acceptance.judged


def test_models_that_nobody_runs_are_forgotten_in_the_end() -> None:
    pool = DraftPool()
    pool.add(DraftNode("a", DRAFT_COSTS, model=pool.model("first")))
    first = pool.model("first")
    for number in range(100):
        pool.model(f"other {number}")
    assert len(pool._models) <= 33
    assert pool.model("first") is first
