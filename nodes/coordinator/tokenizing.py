"""Texts on their way to become token ids: which target was asked, a few at a time."""

from __future__ import annotations

from collections import Counter

from nodes.coordinator.requests import Request
from nodes.messages import TokenizeRequest

# A target reads texts on its event loop, beside the messages of its rounds.
MAX_AT_ONCE = 16


class Tokenizing:
    """Requests whose texts targets tokenize. Each method says what may be asked next."""

    def __init__(self) -> None:
        self._asked: dict[int, tuple[Request, str]] = {}
        self._queue: list[tuple[str, TokenizeRequest]] = []
        self._under_way: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, request: Request, target: str, question: TokenizeRequest) -> None:
        """Queue a text for the target of that name."""
        self._asked[question.request_id] = (request, target)
        self._queue.append((target, question))

    def due(self) -> list[tuple[str, TokenizeRequest]]:
        """What is to be sent now, by name of the target."""
        out, later = [], []
        for name, question in self._queue:
            if question.request_id not in self._asked:
                continue
            if self._under_way[name] >= MAX_AT_ONCE:
                later.append((name, question))
                continue
            self._under_way[name] += 1
            out.append((name, question))
        self._queue = later
        return out

    def answered(self, target: str, number: int) -> tuple[Request | None, bool]:
        """The request that an answer is for, and whether this target was to give it."""
        request, name = self._asked.get(number, (None, target))
        if name != target:
            return None, False
        self._under_way[target] = max(0, self._under_way[target] - 1)
        self._asked.pop(number, None)
        return request, True

    def request(self, number: int) -> Request | None:
        return self._asked.get(number, (None, ""))[0]

    def drop(self, request: Request) -> None:
        """The request has ended: an answer that comes yet is for nobody."""
        for number in [n for n, (known, _) in self._asked.items() if known is request]:
            del self._asked[number]

    def target_gone(self, target: str, other: str, now: float) -> list[Request]:
        """Another target gets what this one was asked; "" if there is none as yet.

        Returns whose texts these are.
        """
        del self._under_way[target]
        self._queue = [(name, question) for name, question in self._queue if name != target]
        return self._pass_on(target, other, now)

    def target_came(self, target: str, now: float) -> None:
        """There is a target for the texts that had none."""
        self._pass_on("", target, now)

    def _pass_on(self, source: str, target: str, now: float) -> list[Request]:
        passed = [(number, r) for number, (r, name) in self._asked.items() if name == source]
        for number, request in passed:
            self._asked[number] = (request, target)
            request.note_able(bool(target), now)
            submit = request.submit
            if target:
                question = TokenizeRequest(number, submit.prompt, submit.messages)
                self._queue.append((target, question))
        return [request for _, request in passed]
