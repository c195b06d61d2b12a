from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from nodes.coordinator.requests.request import Request
from nodes.coordinator.requests.tokenizing import MAX_AT_ONCE, Tokenizing
from tests.nodes.builders import make_submit


@dataclass(slots=True)
class Desk:
    tokenizing: Tokenizing = field(default_factory=Tokenizing)
    num_added: int = 0

    def add(self, tenant: str = "", target: str = "t", client: bytes = b"c") -> Request:
        self.num_added += 1
        submit = make_submit(self.num_added, prompt="text", prompt_token_ids=())
        request = Request(client, submit, 7, tenant=tenant, role="gateway")
        self.tokenizing.add(request, target)
        return request

    def due(self) -> list[int]:
        return [question.request_id for _, question in self.tokenizing.due()]

    def answer(self, number: int) -> list[int]:
        request, was_asked = self.tokenizing.answered("t", number)
        assert request is not None
        assert was_asked
        return self.due()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_target_has_some_texts_at_a_time(desk: Desk) -> None:
    for _ in range(MAX_AT_ONCE + 2):
        desk.add()
    assert desk.due() == list(range(1, MAX_AT_ONCE + 1))
    assert desk.due() == []
    assert desk.answer(2) == [MAX_AT_ONCE + 1]
    desk.add(target="u")
    assert desk.due() == [MAX_AT_ONCE + 3]


def test_tenants_take_turns(desk: Desk) -> None:
    for _ in range(50):
        desk.add("many")
    desk.due()
    desk.add("few")
    desk.add("few")
    assert [desk.answer(number) for number in range(1, 5)] == [[5], [51], [6], [52]]


def test_who_cancels_is_not_asked_for_and_frees_its_place(desk: Desk) -> None:
    requests = [desk.add() for _ in range(MAX_AT_ONCE + 2)]
    desk.due()
    desk.tokenizing.drop(requests[0])
    desk.tokenizing.drop(requests[MAX_AT_ONCE])
    desk.tokenizing.drop(requests[0])
    assert (len(desk.tokenizing), desk.tokenizing.num_of("gateway")) == (MAX_AT_ONCE,) * 2
    # The target has it still; its answer is for nobody.
    assert desk.due() == []
    assert desk.tokenizing.answered("t", 1) == (None, True)
    assert desk.due() == [MAX_AT_ONCE + 2]
    assert desk.tokenizing.unsent(1) is None
    assert desk.tokenizing.unsent(2) is requests[1]
    # So another one can be asked for.
    desk.add()
    assert desk.due() == [MAX_AT_ONCE + 3]


def test_only_who_was_asked_answers(desk: Desk) -> None:
    desk.add()
    desk.due()
    assert desk.tokenizing.answered("other", 1) == (None, False)
    assert len(desk.tokenizing) == 1


def test_texts_of_a_lost_target_go_to_another_or_wait_for_one(desk: Desk) -> None:
    first, second, third = desk.add(), desk.add(), desk.add(target="u")
    desk.due()
    choices = {1: "u", 2: ""}

    def choose(request: Request) -> str:
        return choices[request.request_id]

    assert desk.tokenizing.targets_changed(choose, "t") == [first, second]
    assert list(desk.tokenizing) == [(first, "u"), (second, ""), (third, "u")]
    assert [(name, q.request_id) for name, q in desk.tokenizing.due()] == [("u", 1)]
    choices[2] = "t"
    assert desk.tokenizing.targets_changed(choose) == []
    assert [(name, q.request_id) for name, q in desk.tokenizing.due()] == [("t", 2)]


def test_a_text_of_which_nothing_is_heard_is_asked_for_again_and_not_for_ever(desk: Desk) -> None:
    lost = desk.add()
    desk.due()
    asked: list[int] = []
    for second in range(200):
        if second % 7 == 0:
            # Others are answered all the time.
            desk.add()
            number = desk.due()[-1]
            desk.tokenizing.answered("t", number)
        hopeless = desk.tokenizing.overdue(float(second))
        asked += [second] * (1 in desk.due())
        if hopeless:
            break
    assert hopeless == [lost]
    first, again, third = asked
    assert 10 <= first < again - first < third - again
    assert desk.tokenizing._under_way["t"] == 0


def test_who_cancels_what_a_target_never_had_gets_its_place_back(desk: Desk) -> None:
    for _ in range(MAX_AT_ONCE):
        desk.tokenizing.drop(desk.add())
        lost = desk.add()
        desk.due()
        desk.tokenizing.drop(lost)
    desk.add()
    assert desk.due() == []
    for second in range(30):
        assert desk.tokenizing.overdue(float(second)) == []
    assert desk.due() == [2 * MAX_AT_ONCE + 1]


def test_a_text_that_goes_to_another_target_is_asked_for_there_as_often(desk: Desk) -> None:
    desk.add()
    asked, second = 0, 0.0
    while asked < 4:
        asked += len(desk.due())
        assert desk.tokenizing.overdue(second) == []
        second += 1.0
    desk.tokenizing.targets_changed(lambda _: "u", "t")
    assert desk.due() == [1]
    # It is not given up for what the first one did not answer.
    while not desk.due():
        assert desk.tokenizing.overdue(second) == []
        second += 1.0


def test_who_asks_and_cancels_all_the_time_leaves_nothing(desk: Desk) -> None:
    for _ in range(MAX_AT_ONCE):
        desk.add()
    desk.due()
    for _ in range(100):
        desk.tokenizing.drop(desk.add("restless"))
    assert not any(desk.tokenizing._queues["t"].values())
