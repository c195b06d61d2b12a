"""A coordinator whose targets answer when a test tells them to, and requests for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airdraft.mesh.messages import Pong
from airdraft.nodes.config.settings import LimitSettings
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    ChatMessage,
    EngineProfile,
    FinishedNotice,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    SubmitRequest,
    TokenizeRequest,
    TokensNotice,
)
from tests.nodes.builders import make_submit
from tests.nodes.coordinator import script
from tests.nodes.coordinator.script import CLIENT, Mesh


def profile(numerics_class: str, pass_ms: float = 10.0, **changes: Any) -> EngineProfile:
    fields = {"model_hash": "content", **changes}
    return script.profile(pass_ms, numerics_class=numerics_class, **fields)


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
        self.num_deaths = 0
        self.mesh.join(CLIENT, "client")

    def join(self, name: str, its_profile: EngineProfile) -> None:
        self.profiles[name.encode()] = its_profile
        self.take(self.mesh.join(name.encode(), "target", its_profile, now=self.now))

    def _without(self, name: str) -> bytes:
        peer = name.encode()
        self.opened = [(at, message) for at, message in self.opened if at != peer]
        return peer

    def lose(self, name: str) -> None:
        """A target stops in good order: nothing that it had is to blame."""
        self.take(self.mesh.bye(self._without(name), self.now))

    def die(self, name: str) -> None:
        """A target's process ends after it has answered a Ping, and its next process joins."""
        peer = self._without(name)
        self.num_deaths += 1
        self.mesh.hear(peer, Pong(2**62, 1), self.now)
        self.take(self.mesh.gone(peer, self.now))
        profile = self.profiles[peer]
        process = self.num_deaths
        self.take(self.mesh.join(peer, "target", profile, now=self.now, incarnation=process))

    def ask(self, submit: SubmitRequest) -> None:
        self.take(self.mesh.hear(CLIENT, submit, self.now))

    def submit(self, number: int, **changes: Any) -> StartedNotice | RequestFailedNotice | None:
        """Ask for something; what its client is told at once."""
        self.ask(make_submit(number, **changes))
        return self.failed.get(number) or self.started.get(number)

    def take(self, sends: Sequence[Send]) -> None:
        for send in sends:
            match send.message:
                case TokenizeRequest(request_id=number, prompt=prompt):
                    ids = tuple(1 + byte % 90 for byte in prompt.encode() or b"chat")
                    self.take(self.mesh.tokenized(number, *ids, peer=send.peer))
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
        said = {"generation": generation, "text": f"{self.profiles[peer].numerics_class}!".encode()}
        self.take(self.mesh.ready(stream_id, generation, peer, self.now))
        self.take(
            self.mesh.finish(stream_id, len(opened.token_ids), peer=peer, now=self.now, **said)
        )

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
    """Ask for everything three times, each time in another order and among other requests. Returns
    the answers to each request."""
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
