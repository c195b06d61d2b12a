"""A draft model in the target's process: it guesses before passes while that pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.protocol import EngineError, Logits, Span
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyTokenizer
from airdraft.nodes.messages import MAX_GAMMA
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Beside, Committed, Event
from airdraft.nodes.target.turns import Turns
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.builders import make_spec
from tests.nodes.recurrent_toy import RecurrentToy
from tests.nodes.target.script import ONE, RecordingModel, alone, commits_in, tokens_of

# A pass takes 30 ms, whatever is in it, and a step of the draft as long as a test says.
PASS_S = 0.03
PASSES = NodeCosts(CostTable((1, 512), (PASS_S, PASS_S)), CostTable((32,), (PASS_S,)))


class FailingModel(RecordingModel):
    """Fails in a call of this name from when it is told to."""

    fails_in = ""

    def _fail(self, name: str) -> None:
        if self.fails_in == name:
            raise EngineError("the engine failed")

    def forward(self, spans: Sequence[Span]) -> Logits:
        self._fail("forward")
        return super().forward(spans)

    def truncate(self, seq_id: int, length: int) -> None:
        self._fail("truncate")
        super().truncate(seq_id, length)


class Pair:
    """A target with a draft inside. step_s: seconds of its steps. read_s: seconds in which it reads
    32 tokens. is_late: the draft is not attached yet."""

    def __init__(
        self,
        agreement: float = 1.0,
        step_s: float = 0.005,
        *,
        read_s: float = 0.005,
        num_draft_cells: int = 4096,
        is_late: bool = False,
        is_recurrent: tuple[bool, bool] = (False, False),
    ) -> None:
        self.model = (RecurrentToy if is_recurrent[0] else RecordingModel)(ToyConfig())
        self.draft: Any = (RecurrentToy if is_recurrent[1] else FailingModel)(
            ToyConfig(agreement=agreement, num_cells=num_draft_cells)
        )
        # What was said when the draft was dropped.
        self.errors: list[str] = []
        self._step_s = step_s
        steps = NodeCosts(CostTable((1, 512), (step_s, 2 * step_s)), CostTable((32,), (read_s,)))
        self.turns = Turns(DraftState(self.draft), steps, dropped=self.errors.append)
        turns = None if is_late else self.turns
        self.state = TargetState(self.model, ToyTokenizer(96), costs=PASSES, turns=turns)

    def open(self, *specs: StreamSpec) -> None:
        for spec in specs:
            self.state.open(spec)

    def step(self) -> list[Event]:
        num_before = len(self.draft.passes)
        events = self.state.step()
        self.state.passed(self._step_s if len(self.draft.passes) > num_before else PASS_S)
        return events

    def run(self) -> list[Event]:
        events: list[Event] = []
        while self.state.has_work():
            events += self.step()
        return events

    @property
    def is_empty(self) -> bool:
        return all(m.free_cells() == m.config.num_cells for m in (self.model, self.draft))


def make_stream(stream_id: int = 1, **changes: Any) -> StreamSpec:
    changes = {"max_tokens": 100, "num_leased": 1000} | changes
    return make_spec(stream_id, **changes)


def num_guesses(events: Sequence[Event]) -> int:
    return sum(commit.entry.num_in_turns for commit in commits_in(events))


@given(
    agreement=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    step_s=st.sampled_from([0.0001, 0.005, 0.1]),
    prompts=st.lists(st.lists(st.integers(1, 95), min_size=2, max_size=90), min_size=1, max_size=4),
    num_draft_cells=st.sampled_from([64, 300, 4096]),
    num_asked=st.sampled_from([-1, -1, 0, 3]),
    is_recurrent=st.tuples(st.booleans(), st.booleans()),
)
def test_texts_are_those_without_it_and_nothing_of_them_stays(
    agreement: float,
    step_s: float,
    prompts: list[list[int]],
    num_draft_cells: int,
    num_asked: int,
    is_recurrent: tuple[bool, bool],
) -> None:
    pair = Pair(agreement, step_s, num_draft_cells=num_draft_cells, is_recurrent=is_recurrent)
    specs = [
        make_stream(number, prompt=tuple(prompt), max_tokens=30, num_guesses=num_asked, owner="me")
        for number, prompt in enumerate(prompts, 1)
    ]
    pair.open(*specs)
    events = pair.run()
    for spec in specs:
        assert tokens_of(events, spec.stream_id) == alone(spec).token_ids
    pair.state.forget_all()
    assert pair.is_empty


def test_a_good_draft_shortens_a_text_by_many_passes() -> None:
    pair = Pair(agreement=1.0)
    pair.open(make_stream())
    events = pair.run()
    assert len(pair.model.passes) < 30
    assert num_guesses(events) > 70
    # Who compares the times of passes is told of those of the steps.
    turn_s = sum(event.turn_s for event in events if isinstance(event, Beside))
    assert round(turn_s / 0.005) == len(pair.draft.passes)


@pytest.mark.parametrize("is_recurrent", [(True, False), (False, True), (True, True)], ids=str)
def test_recurrent_models_guess_and_have_guesses(is_recurrent: tuple[bool, bool]) -> None:
    pair = Pair(agreement=0.9, is_recurrent=is_recurrent)
    pair.open(make_stream())
    events = pair.run()
    assert tokens_of(events) == alone(make_stream()).token_ids
    assert len(pair.model.passes) < 60


def test_what_a_recurrent_target_computes_again_stays_short() -> None:
    """A client wants guesses that are never right."""
    pair = Pair(agreement=0.0, is_recurrent=(True, False))
    pair.open(*(make_stream(number, num_guesses=3) for number in (1, 2)))
    events = pair.run()
    for number in (1, 2):
        expected = alone(make_stream(number)).token_ids
        assert tokens_of(events, StreamId(number)) == expected
    assert max(max(sizes) for sizes in pair.model.sizes) <= 2 * MAX_GAMMA + 2


def test_a_draft_that_is_never_right_costs_a_few_steps() -> None:
    pair = Pair(agreement=0.0)
    pair.open(make_stream(max_tokens=400))
    pair.run()
    assert 0 < len(pair.draft.passes) < 40


def test_steps_that_take_as_long_as_passes_are_not_made() -> None:
    pair = Pair(step_s=PASS_S)
    pair.open(make_stream())
    pair.run()
    assert pair.draft.passes == []


def test_a_request_without_guesses_gets_none_and_one_with_a_number_gets_that_many() -> None:
    pair = Pair(agreement=1.0)
    pair.open(make_stream(num_guesses=0))
    assert num_guesses(pair.run()) == 0
    assert pair.draft.passes == []
    # Even where they are never worth their time.
    pair = Pair(agreement=1.0, step_s=2 * PASS_S)
    pair.open(make_stream(num_guesses=3, max_tokens=41))
    made = [commit.entry.num_in_turns for commit in commits_in(pair.run())]
    assert made[1:] == [3] * 10


def test_a_long_prompt_is_read_in_pieces_between_passes_once_the_answer_is_long_enough() -> None:
    prompt = tuple(1 + number % 90 for number in range(2000))
    pair = Pair(read_s=PASS_S)
    pair.open(make_stream(prompt=prompt, max_tokens=1500))
    events = list[Event]()
    while not pair.draft.passes:
        events += pair.step()
    # A short answer does not repay it.
    assert len(tokens_of(events)) > 20
    order = ""
    while not num_guesses(events):
        num_before = len(pair.model.passes)
        events = pair.step()
        is_pass = len(pair.model.passes) > num_before
        order += "p" if is_pass else "g" if pair.draft.passes[-1][0].num_outputs else "r"
    assert order.startswith("prprprprpr")
    assert "rr" not in order


def test_a_second_answer_to_a_prompt_copies_what_the_first_one_read() -> None:
    prompt = tuple(1 + number % 90 for number in range(200))
    pair = Pair()
    pair.open(*(make_stream(number, prompt=prompt, owner="me") for number in (1, 2)))
    pair.run()
    num_run = sum(len(span.token_ids) for spans in pair.draft.passes for span in spans)
    assert 200 < num_run < 200 + 200 + 50


def test_a_stream_that_is_closed_or_comes_anew_has_no_guesses_of_before() -> None:
    pair = Pair()
    pair.open(make_stream())
    for _ in range(8):
        pair.step()
    pair.state.close(ONE, 1)
    pair.open(make_stream(generation=3, prompt=(9, 9)))
    text = [t for e in pair.run() if isinstance(e, Committed) for t in e.token_ids]
    assert tuple(text) == alone(make_stream(prompt=(9, 9))).token_ids
    pair.open(make_stream(generation=5))
    pair.step()
    pair.state.forget_all()
    assert pair.is_empty


@given(
    agreement=st.sampled_from([0.0, 0.8, 1.0]),
    prompts=st.lists(st.lists(st.integers(1, 95), min_size=2, max_size=90), min_size=1, max_size=3),
    attached_at=st.integers(0, 40),
    num_with=st.integers(0, 60),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_texts_are_the_same_if_it_comes_and_goes_in_the_middle_of_them(
    agreement: float, prompts: list[list[int]], attached_at: int, num_with: int, temperature: float
) -> None:
    pair = Pair(agreement, step_s=0.0001, is_late=True)
    sampling = Sampling(temperature=temperature, seed=7)
    specs = [
        make_stream(number, prompt=tuple(prompt), max_tokens=60, sampling=sampling)
        for number, prompt in enumerate(prompts, 1)
    ]
    pair.open(*specs)
    events = list[Event]()
    for number in range(attached_at + num_with):
        if number == attached_at:
            pair.state.attach(pair.turns)
        events += pair.step() if pair.state.has_work() else []
    pair.draft.fails = True
    events += pair.run()
    for spec in specs:
        assert tokens_of(events, spec.stream_id) == alone(spec).token_ids
    assert pair.model.free_cells() == pair.model.config.num_cells


def test_streams_that_were_open_before_it_came_get_its_guesses() -> None:
    pair = Pair(agreement=1.0, is_late=True)
    pair.open(*(make_stream(number) for number in (1, 2, 3)))
    for _ in range(20):
        assert num_guesses(pair.step()) == 0
    # One that has ended by then is not followed.
    pair.state.close(ONE, 1)
    pair.state.attach(pair.turns)
    assert num_guesses(pair.run()) > 100


@pytest.mark.parametrize("call", ["forward", "truncate"])
def test_one_that_fails_is_dropped_and_the_pass_runs_without_it(call: str) -> None:
    pair = Pair(agreement=0.6)
    pair.open(make_stream())
    events = list[Event]()
    while not num_guesses(events):
        events += pair.step()
    pair.draft.fails_in = call
    events += pair.run()
    assert pair.errors == ["the engine failed"]
    assert tokens_of(events) == alone(make_stream()).token_ids


def test_one_that_does_not_pay_is_dropped_after_a_trial() -> None:
    for agreement, is_dropped in ((0.0, True), (1.0, False)):
        pair = Pair(agreement)
        for number in range(1, 8):
            pair.open(make_stream(number, max_tokens=1000))
            pair.run()
        assert pair.errors == ([""] if is_dropped else [])
        # Answers with a number of guesses that their clients want say nothing of that.
        pair = Pair(agreement, step_s=2 * PASS_S)
        for number in range(1, 8):
            pair.open(make_stream(number, max_tokens=1000, num_guesses=1))
            pair.run()
        assert pair.errors == []
