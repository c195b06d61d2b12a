"""One request, one numerics class: which one follows from the request and from who is there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mesh.messages import Bye
from nodes.config import LimitSettings
from nodes.coordinator.placing.choosing import LATELY_S
from nodes.coordinator.placing.classes import (
    ambiguous,
    classes_in_order,
    score_of,
    standings_of,
)
from nodes.coordinator.requests.conversation import conversation_of
from nodes.coordinator.sends import Send
from nodes.messages import (
    ChatMessage,
    CommitEntry,
    CommitReply,
    EngineProfile,
    FinishedNotice,
    NodeCommandRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
    TokensNotice,
)
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import CLIENT, Mesh, failure

ADMIN = b"admin"
WEIGHTS = {"a": 1, "b": 3}


def profile(numerics_class: str, pass_ms: float = 10.0, **changes: Any) -> EngineProfile:
    made = make_profile(numerics_class=numerics_class, model_hash="content", **changes)
    seconds = (pass_ms / 1e3, 3 * pass_ms / 1e3)
    return replace(made, decode=replace(made.decode, sizes=(1, 11), seconds=seconds))


def order_of(
    profiles: Sequence[EngineProfile], conversation: bytes, weights: dict[str, int]
) -> list[str]:
    return classes_in_order(standings_of(profiles), "content", conversation, weights)


def text(number: int) -> bytes:
    return b"conversation %d" % number


# -- their order -----------------------------------------------------------------------------------


def test_exact_classes_go_first_then_fast_ones_then_by_name() -> None:
    profiles = [
        profile("c", 10),
        profile("d", 20),
        profile("d", 5),
        profile("b", 10),
        profile("a", 1, exact=False),
        profile("e", 1),
        profile("e", 1, exact=False),
    ]
    assert order_of(profiles, b"", {}) == ["d", "b", "c", "a", "e"]
    assert order_of(profiles[::-1], b"x", {}) == ["d", "b", "c", "a", "e"]


def test_conversations_are_shared_by_weight_and_the_others_serve_in_their_place() -> None:
    profiles = [profile("a1"), profile("b1", 90), profile("c1", 1), profile("d1", 2, exact=False)]
    orders = [order_of(profiles, text(n), WEIGHTS) for n in range(4000)]
    first = Counter(order[0] for order in orders)
    # Drawn once and for all: 1000 and 3000 are expected, with a deviation of 27.
    assert abs(first["a1"] - 1000) < 100
    assert first["a1"] + first["b1"] == 4000
    assert all(order[2:] == ["c1", "d1"] for order in orders)


def test_a_class_that_goes_changes_the_place_of_no_other() -> None:
    profiles = [profile(name) for name in ("a", "b", "c")]
    weights = {"a": 2, "b": 1, "c": 5}
    for number in range(200):
        order = order_of(profiles, text(number), weights)
        for gone in order:
            left = [p for p in profiles if p.numerics_class != gone]
            expected = [name for name in order if name != gone]
            assert order_of(left, text(number), weights) == expected


def test_the_scores_are_the_same_everywhere() -> None:
    """They decide what a mesh answers: any coordinator, of any version, must find the same."""
    found = [score_of(weight, "content", b"x", name) for weight in (1, 3) for name in ("a", "b")]
    assert found == SCORES


SCORES = [
    7120163423766407801,
    3814042432261352661,
    18124554907496338894,
    18003069736493774960,
]


def test_a_beginning_of_several_classes_is_ambiguous() -> None:
    assert ambiguous(["ab", "ac", "b"], {"a": 1, "b": 1}) == {"a": ["ab", "ac"]}
    assert ambiguous(["ab", "ab"], {"a": 1}) == {}


def test_it_is_said_when_a_weight_was_meant_for_another_class(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh = Mesh(class_weights={"a": 1})
    mesh.join(b"1", "target", profile("ab"))
    assert not caplog.records
    mesh.join(b"2", "target", profile("ac"))
    (record,) = caplog.records
    assert record.getMessage().startswith("classes.weights: a is the beginning of ab and ac, ")


# -- conversations ---------------------------------------------------------------------------------


def chat(*turns: tuple[str, str]) -> SubmitRequest:
    messages = tuple(ChatMessage(role, content) for role, content in turns)
    return make_submit(prompt_token_ids=(), messages=messages)


def test_all_turns_of_a_conversation_are_the_same() -> None:
    begin = ("system", "be brief"), ("user", "hello")
    first = conversation_of(chat(*begin), ())
    later = chat(*begin, ("assistant", "hi"), ("user", "and you?"))
    assert conversation_of(later, ()) == first
    assert conversation_of(chat(("user", "hello")), ()) != first
    assert conversation_of(chat(("system", "be brief"), ("user", "hi")), ()) != first
    assert conversation_of(chat(("system", "be"), ("user", "brief")), ()) != conversation_of(
        chat(("system", "bebrief"), ("user", "")), ()
    )


def test_of_a_text_and_of_token_ids_the_beginning_counts() -> None:
    for size, prompts in (
        (256, [make_submit(prompt=letter, prompt_token_ids=()) for letter in "xy"]),
        (64, [make_submit(prompt_token_ids=(number,)) for number in (1, 2)]),
    ):

        def found(*parts: tuple[int, int], made: Sequence[SubmitRequest] = prompts) -> bytes:
            prompt = "".join(made[which].prompt * count for which, count in parts)
            ids = [i for which, count in parts for i in made[which].prompt_token_ids * count]
            return conversation_of(replace(made[0], prompt=prompt), ids)

        assert found((0, size), (1, 9)) == found((0, size))
        assert found((0, size - 1), (1, 9)) != found((0, size))


# -- a mesh ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    text: bytes
    fingerprint: tuple[str, str]


class Fleet:
    """A coordinator with targets whose every text is one token that names their class.

    They answer when they are told to, so that load is whatever a test wants.
    """

    def __init__(self, **changes: Any) -> None:
        limits = LimitSettings(max_requests=10_000, max_waiting=10_000)
        self.mesh = Mesh(limits=limits, **changes)
        self.profiles: dict[bytes, EngineProfile] = {}
        self.opened: list[tuple[bytes, OpenStreamRequest]] = []
        self.started: dict[int, StartedNotice] = {}
        self.failed: dict[int, RequestFailedNotice] = {}
        self.finished: set[int] = set()
        self.texts: dict[int, bytes] = {}
        self.now = 0.0
        self.mesh.join(CLIENT, "client")
        self.mesh.join(ADMIN, "admin")

    def join(self, name: str, its_profile: EngineProfile) -> None:
        self.profiles[name.encode()] = its_profile
        self.take(self.mesh.join(name.encode(), "target", its_profile, now=self.now))

    def lose(self, name: str) -> None:
        """A target stops in good order: nothing that it had is to blame."""
        peer = name.encode()
        self.opened = [(at, message) for at, message in self.opened if at != peer]
        self.take(self.mesh.hear(peer, Bye("over"), self.now))

    def drain(self, name: str) -> None:
        self.take(self.mesh.hear(ADMIN, NodeCommandRequest(9**9, "drain", name), self.now))

    def ask(self, submit: SubmitRequest) -> None:
        self.take(self.mesh.hear(CLIENT, submit, self.now))

    def take(self, sends: Sequence[Send]) -> None:
        for send in sends:
            match send.message:
                case TokenizeRequest(request_id=number, prompt=prompt):
                    ids = tuple(1 + byte % 90 for byte in prompt.encode() or b"chat")
                    self.take(self.mesh.hear(send.peer, TokenizeReply(number, "", ids), self.now))
                case OpenStreamRequest():
                    self.opened.append((send.peer, send.message))
                case StartedNotice() as started:
                    self.started[started.request_id] = started
                case RequestFailedNotice() as failed:
                    self.failed[failed.request_id] = failed
                case TokensNotice(request_id=number, text=told):
                    self.texts[number] = told
                case FinishedNotice(request_id=number):
                    self.finished.add(number)

    def answer(self, index: int) -> None:
        """A target ends one of the texts that are under way."""
        peer, opened = self.opened.pop(index)
        stream_id, generation = opened.stream_id, opened.generation
        said = self.profiles[peer].numerics_class.encode()
        entry = CommitEntry(
            stream_id, generation, len(opened.token_ids), 1, 0, 0, "stop", said + b"!"
        )
        self.take(self.mesh.hear(peer, StreamReadyNotice(stream_id, generation), self.now))
        self.take(self.mesh.hear(peer, CommitReply(0.0, (entry,), (9,)), self.now))

    def answer_all(self, order: random.Random) -> None:
        while self.opened:
            self.answer(order.randrange(len(self.opened)))

    def found(self, number: int) -> Answer:
        assert number in self.finished, self.failed.get(number)
        started = self.started[number]
        return Answer(self.texts[number], (started.model_hash, started.numerics_class))


def cases(num: int) -> list[SubmitRequest]:
    """Requests of all kinds, each seeded, some with several choices."""
    order = random.Random(1)
    made = []
    for number in range(num):
        submit = make_submit(0, seed=number, max_tokens=1 + order.randrange(200))
        match number % 3:
            case 0:
                made.append(replace(submit, prompt_token_ids=(1 + number % 90, 5, 6)))
            case 1:
                made.append(replace(submit, prompt_token_ids=(), prompt=f"text {number}"))
            case 2:
                messages = (ChatMessage("user", f"hello {number}"),)
                made.append(replace(submit, prompt_token_ids=(), messages=messages))
    return made


def ask_thrice(fleet: Fleet, asked: Sequence[SubmitRequest], first: int = 0) -> list[set[Answer]]:
    """What three of each are answered, in other orders, each time among others under way."""
    found: list[set[Answer]] = [set() for _ in asked]
    number = first
    for attempt in range(3):
        order = random.Random(attempt)
        numbers: dict[int, int] = {}
        for index in order.sample(range(len(asked)), len(asked)):
            number += 1
            fleet.ask(make_submit(number + 100_000, priority=1 + order.randrange(10)))
            fleet.ask(replace(asked[index], request_id=number))
            numbers[number] = index
            # Texts end in any order, so that any target is full at times.
            while len(fleet.opened) > order.randrange(1, 40):
                fleet.answer(order.randrange(len(fleet.opened)))
        fleet.answer_all(order)
        for request_id, index in numbers.items():
            found[index].add(fleet.found(request_id))
    return found


def two_classes(**changes: Any) -> Fleet:
    """Class a on two targets, class b on one, which is slower; each has room for few."""
    fleet = Fleet(**changes)
    fleet.join("a1", profile("a", 10, max_streams=3))
    fleet.join("a2", profile("a", 12, max_streams=1))
    fleet.join("b1", profile("b", 11, max_streams=2))
    return fleet


@pytest.mark.timeout(300)
def test_a_request_is_answered_alike_whatever_else_there_is_to_do() -> None:
    assert ask_thrice(two_classes(), cases(200)) == [{Answer(b"a!", ("content", "a"))}] * 200


@pytest.mark.timeout(300)
def test_the_next_class_serves_while_the_first_is_down_and_says_so() -> None:
    fleet = two_classes()
    fleet.lose("a1")
    # Its other target is there: it is waited for, though it has room for one.
    assert ask_thrice(fleet, cases(50)) == [{Answer(b"a!", ("content", "a"))}] * 50
    fleet.lose("a2")
    assert ask_thrice(fleet, cases(200), 10_000) == [{Answer(b"b!", ("content", "b"))}] * 200
    fleet.join("a2", profile("a", 12, max_streams=1))
    assert ask_thrice(fleet, cases(50), 20_000) == [{Answer(b"a!", ("content", "a"))}] * 50


def test_a_target_that_restarts_does_not_change_which_class_is_the_first() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10))
    fleet.join("a2", profile("a", 30))
    fleet.join("b1", profile("b", 20))
    fleet.lose("a1")
    # The class is as fast as it was with what is gone for the moment.
    fleet.now = LATELY_S
    fleet.ask(make_submit(1))
    assert fleet.started[1].numerics_class == "a"
    fleet.now += 0.1
    fleet.ask(make_submit(2))
    assert fleet.started[2].numerics_class == "b"


@pytest.mark.timeout(300)
def test_with_weights_each_request_has_its_class() -> None:
    fleet = two_classes(class_weights=WEIGHTS)
    found = ask_thrice(fleet, cases(200))
    assert all(len(answers) == 1 for answers in found)
    shares = Counter(answer.text for answers in found for answer in answers)
    assert set(shares) == {b"a!", b"b!"}
    # The same requests are the same in any coordinator.
    assert ask_thrice(two_classes(class_weights=WEIGHTS), cases(200)) == found


def test_a_conversation_stays_in_its_class() -> None:
    fleet = two_classes(class_weights={"a": 1, "b": 1})
    order, number = random.Random(3), 0
    by_conversation: dict[int, set[Answer]] = {n: set() for n in range(40)}
    turns: dict[int, list[ChatMessage]] = {n: [] for n in by_conversation}
    for turn in range(4):
        asked = {}
        for conversation in order.sample(sorted(turns), len(turns)):
            number += 1
            turns[conversation].append(ChatMessage("user", f"{conversation} says {turn}"))
            messages = tuple(turns[conversation])
            fleet.ask(make_submit(number, messages=messages, prompt_token_ids=(), seed=turn))
            asked[number] = conversation
        fleet.answer_all(order)
        for request_id, conversation in asked.items():
            answer = fleet.found(request_id)
            by_conversation[conversation].add(answer)
            turns[conversation].append(ChatMessage("assistant", answer.text.decode()))
    assert all(len(answers) == 1 for answers in by_conversation.values())
    assert len({answer for answers in by_conversation.values() for answer in answers}) == 2


def test_a_class_that_is_full_is_waited_for() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10, max_streams=1))
    fleet.join("b1", profile("b", 20))
    for number in range(1, 4):
        fleet.ask(make_submit(number))
    assert [peer for peer, _ in fleet.opened] == [b"a1"]
    fleet.drain("a1")
    # Those that had not begun need not wait for one that takes nothing new.
    assert [peer for peer, _ in fleet.opened] == [b"a1", b"b1", b"b1"]
    fleet.answer_all(random.Random(0))
    assert [fleet.found(n).text for n in (1, 2, 3)] == [b"a!", b"b!", b"b!"]


def test_choices_of_a_request_have_one_class() -> None:
    fleet = two_classes(class_weights={"a": 1, "b": 1})
    for number in range(1, 30):
        fleet.ask(make_submit(number, num_choices=6, prompt_token_ids=(number, 2)))
        served = {fleet.profiles[peer].numerics_class for peer, _ in fleet.opened}
        while fleet.opened:
            fleet.answer(0)
            served |= {fleet.profiles[peer].numerics_class for peer, _ in fleet.opened}
        assert len(served) == 1


def test_a_text_that_does_not_fit_into_the_first_class_goes_to_the_next() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10, num_cells=300))
    fleet.join("b1", profile("b", 20, num_cells=4000))
    fleet.ask(make_submit(1, max_tokens=500))
    fleet.ask(make_submit(2, max_tokens=50))
    assert [fleet.started[n].numerics_class for n in (1, 2)] == ["b", "a"]


# -- one that is asked for -------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_who_names_a_class_gets_it_or_nothing() -> None:
    fleet = two_classes()
    long = "3fa9c1d277bc0011"
    fleet.join("c1", replace(profile(long, 90), model_hash="0123456789abcdef" * 4))
    pinned = [replace(s, model_hash="content", numerics_class="b") for s in cases(60)]
    assert ask_thrice(fleet, pinned) == [{Answer(b"b!", ("content", "b"))}] * 60
    # As fingerprints have them, and in full.
    for number, parts in enumerate((("01234567", long[:8]), ("0123456789abcdef" * 4, long)), 1):
        fleet.ask(make_submit(number, model_hash=parts[0], numerics_class=parts[1]))
        fleet.answer_all(random.Random(0))
        assert fleet.found(number).fingerprint == ("0123456789abcdef" * 4, long)
    fleet.lose("b1")
    wanted = make_submit(7, model_hash="content", numerics_class="b")
    assert failure(fleet.mesh.hear(CLIENT, wanted)) == (
        "unavailable",
        "no target with fingerprint fp_content_b is there at present",
    )
    other = make_submit(8, model_hash="01234567", numerics_class="b", model="toy-1")
    assert failure(fleet.mesh.hear(CLIENT, other))[0] == "unavailable"


def test_a_name_and_a_class_of_another_model_contradict_each_other() -> None:
    fleet = Fleet()
    fleet.join("a", profile("a", model="a.gguf"))
    fleet.join("b", replace(profile("b", model="b.gguf"), model_hash="other"))
    asked = make_submit(1, model="b", model_hash="content", numerics_class="a")
    assert failure(fleet.mesh.hear(CLIENT, asked)) == (
        "bad_request",
        "fingerprint fp_content_a is not one of model 'b': leave one out",
    )
    asked = make_submit(1, model="c", model_hash="content", numerics_class="a")
    assert failure(fleet.mesh.hear(CLIENT, asked))[0] == "not_found"


def test_what_asked_for_a_class_waits_for_it_when_its_target_is_lost() -> None:
    fleet = two_classes()
    fleet.ask(make_submit(1, model_hash="content", numerics_class="b"))
    fleet.lose("b1")
    assert (fleet.opened, fleet.failed) == ([], {})
    fleet.join("b2", profile("b", 90))
    assert [peer for peer, _ in fleet.opened] == [b"b2"]


def test_a_text_that_is_too_long_for_the_class_is_refused_at_once() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", 10, num_cells=300))
    fleet.join("b1", profile("b", 20, num_cells=4000))
    fleet.ask(make_submit(1, max_tokens=500, model_hash="content", numerics_class="a"))
    assert fleet.failed[1].code == "bad_request"


def test_what_was_not_exact_may_begin_anew_with_what_is() -> None:
    fleet = Fleet()
    fleet.join("a1", profile("a", exact=False))
    fleet.ask(make_submit(1))
    fleet.join("b1", profile("b"))
    fleet.lose("a1")
    assert (fleet.started[1].numerics_class, fleet.started[1].exact) == ("b", True)


# -- files of one name -----------------------------------------------------------------------------


def two_files() -> Fleet:
    """a.gguf on two targets with 1200 cells together, and another file of that name with 1000."""
    fleet = Fleet()
    one = profile("one", num_cells=600, model="a.gguf", max_streams=2)
    fleet.join("1a", replace(one, model_hash="11" * 32))
    fleet.join("1b", replace(one, model_hash="11" * 32))
    other = profile("two", num_cells=1000, model="a.gguf", max_streams=2)
    fleet.join("2", replace(other, model_hash="22" * 32))
    return fleet


@pytest.mark.timeout(300)
def test_files_of_one_name_are_two_models() -> None:
    fleet = two_files()
    asked = [replace(s, model=model) for s in cases(70) for model in ("a", "a.gguf", "")]
    assert ask_thrice(fleet, asked) == [{Answer(b"one!", ("11" * 32, "one"))}] * len(asked)
    asked = [replace(s, model="a@22222222") for s in cases(60)]
    found = ask_thrice(fleet, asked, 10_000)
    assert found == [{Answer(b"two!", ("22" * 32, "two"))}] * 60


def test_a_name_means_the_same_file_while_one_of_its_targets_restarts() -> None:
    fleet = two_files()
    fleet.lose("1a")
    fleet.ask(make_submit(1, model="a"))
    assert fleet.started[1].model_hash == "11" * 32
    # With none of them there the name means the other one, and the answer says so.
    fleet.lose("1b")
    fleet.ask(make_submit(2, model="a"))
    assert fleet.started[2].model_hash == "22" * 32
    assert failure(fleet.mesh.hear(CLIENT, make_submit(3, model="a.gguf@11111111"))) == (
        "unavailable",
        "no target of model 'a.gguf@11111111' is there at present: try later",
    )
    assert failure(fleet.mesh.hear(CLIENT, make_submit(4, model="a@33333333"))) == (
        "not_found",
        "no target has model 'a@33333333'; there are: a.gguf",
    )
    fleet.join("1a", replace(fleet.profiles[b"1a"], num_cells=600))
    fleet.ask(make_submit(5, model="a"))
    assert fleet.started[5].model_hash == "11" * 32


def test_who_asks_for_what_is_not_there_is_told_the_files_apart() -> None:
    fleet = two_files()
    _, reason = failure(fleet.mesh.hear(CLIENT, make_submit(1, model="b")))
    assert reason == "no target has model 'b'; there are: a.gguf@11111111, a.gguf@22222222"


def test_of_equal_cells_the_lower_hash_goes_first() -> None:
    for order in (("22", "11"), ("11", "22")):
        fleet = Fleet()
        for name in order:
            fleet.join(name, replace(profile(name, model="a"), model_hash=name * 32))
        fleet.ask(make_submit(1, model="a"))
        assert fleet.started[1].model_hash == "11" * 32


def test_one_file_of_two_names_is_one_model() -> None:
    fleet = Fleet()
    fleet.join("a", profile("a", model="a", max_streams=1))
    fleet.join("b", profile("a", model="b", max_streams=1))
    for number in (1, 2):
        fleet.ask(make_submit(number, model="a"))
    assert sorted(peer for peer, _ in fleet.opened) == [b"a", b"b"]
