"""Texts on their way to become token ids: which target was asked, a few at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nodes.coordinator.requests.holdings import num_held_by
from nodes.coordinator.requests.request import Request
from nodes.messages import EMBEDDING, TokenizeRequest
from nodes.scheduler.silences import Silences

# A target reads one text at a time; the others are on their way meanwhile.
MAX_AT_ONCE = 4
# A text is asked for again after so much silence, longer each time, and what all texts on their way
# may take on a slow machine.
_SILENT_S = 10.0
_CHAR_S = 5e-5
# A pass over the longest text by a slow device.
_EMBEDDING_S = 120.0
_MOST_ASKED_AGAIN = 3


@dataclass(slots=True)
class Text:
    """A request's text. target: who was or is to be asked, "" for nobody as yet."""

    number: int
    request: Request
    target: str
    num_chars: int
    num_asked: int = 0


class Tokenizing:
    """Requests whose texts targets tokenize, those of each tenant in turn with the others'."""

    def __init__(self) -> None:
        self._texts: dict[int, Text] = {}
        self._number_of: dict[tuple[bytes, int], int] = {}
        # By target, then by tenant, those whose turn is next first: numbers of texts, in order.
        self._queues: dict[str, dict[str, dict[int, None]]] = {}
        # Sent and not answered yet, those of requests that have ended meanwhile too: the target
        # still reads them.
        self._sent: dict[int, Text] = {}
        self._under_way: Counter[str] = Counter()
        self._num_of_role: Counter[str] = Counter()
        self._next_number = 1
        self._silences = Silences[int]()

    def __len__(self) -> int:
        return len(self._texts)

    def num_of(self, role: str) -> int:
        """Texts of clients that joined in a role."""
        return self._num_of_role[role]

    def add(self, request: Request, target: str) -> None:
        """Queue the text of a request for the target of that name; "" for one that is to come."""
        number = self._next_number
        self._next_number += 1
        text = Text(number, request, target, num_held_by(request))
        self._texts[number] = text
        self._number_of[request.client, request.request_id] = number
        self._num_of_role[request.role] += 1
        if target:
            self._queue(text)

    def _queue(self, text: Text) -> None:
        tenants = self._queues.setdefault(text.target, {})
        tenants.setdefault(text.request.tenant, {})[text.number] = None

    def due(self) -> list[tuple[str, TokenizeRequest]]:
        """What is to be sent now, by name of the target."""
        out = []
        for target, tenants in self._queues.items():
            while tenants and self._under_way[target] < MAX_AT_ONCE:
                tenant = next(iter(tenants))
                text = self._texts[next(iter(tenants[tenant]))]
                numbers = tenants.pop(tenant)
                del numbers[text.number]
                if numbers:
                    tenants[tenant] = numbers
                self._under_way[target] += 1
                self._sent[text.number] = text
                text.num_asked += 1
                submit = text.request.submit
                asked = TokenizeRequest(
                    text.number,
                    submit.prompt,
                    submit.messages,
                    submit.date,
                    submit.tools,
                    submit.prompt_token_ids if submit.wants else (),
                    submit.wants,
                )
                out.append((target, asked))
        return out

    def answered(self, target: str, number: int) -> tuple[Request | None, bool]:
        """The request that an answer is for, and whether this target was to give it."""
        text = self._texts.get(number)
        if text is not None and text.target != target:
            return None, False
        sent = self._sent.get(number)
        if sent is not None and sent.target == target:
            self._release(number)
        if text is None:
            return None, True
        self._forget(text)
        return text.request, True

    def _forget(self, text: Text) -> None:
        request = text.request
        tenants = self._queues.get(text.target, {})
        numbers = tenants.get(request.tenant, {})
        if text.number in numbers:
            del numbers[text.number]
            if not numbers:
                del tenants[request.tenant]
        del self._texts[text.number]
        del self._number_of[request.client, request.request_id]
        self._num_of_role[request.role] -= 1

    def unsent(self, number: int) -> Request | None:
        """A text did not go out: the request that it is of, if that has not ended yet."""
        self._release(number)
        text = self._texts.get(number)
        return None if text is None else text.request

    def overdue(self, now: float) -> list[Request]:
        """Ask again for texts that a target has been silent about for too long: a message was lost.

        Returns the requests for whose texts that has been done in vain.
        """
        if not self._silences.is_due(now):
            return []
        sent = self._sent.values()
        # What all texts on their way may take, one after the other.
        work_s = _CHAR_S * sum(text.num_chars for text in sent)
        work_s += _EMBEDDING_S * sum(text.request.submit.wants == EMBEDDING for text in sent)

        def limit_s(number: int) -> float:
            return _SILENT_S * self._sent[number].num_asked + work_s

        hopeless = []
        waiting = [(n, (text.target, text.num_asked)) for n, text in self._sent.items()]
        for number in self._silences.overdue(waiting, limit_s, now):
            text = self._sent[number]
            self._release(number)
            if number not in self._texts:
                continue
            if text.num_asked > _MOST_ASKED_AGAIN:
                hopeless.append(text.request)
            else:
                self._queue(text)
        return hopeless

    def _release(self, number: int) -> None:
        """A target does not read a text any more, if it did."""
        text = self._sent.pop(number, None)
        if text is None:
            return
        self._under_way[text.target] -= 1

    def drop(self, request: Request) -> None:
        """The request has ended: its text is not sent, an answer that comes yet is for nobody."""
        number = self._number_of.get((request.client, request.request_id))
        if number is not None:
            self._forget(self._texts[number])

    def targets_changed(self, choose: Callable[[Request], str], gone: str = "") -> list[Request]:
        """Texts without a target, and those of the one that is gone, get another.

        choose: the target that is to tokenize a request's text; "" if there is none as yet.
        Returns whose texts the target that is gone had.
        """
        for number in [n for n, text in self._sent.items() if text.target == gone]:
            self._release(number)
        self._under_way.pop(gone, None)
        self._queues.pop(gone, None)
        lost = []
        for text in self._texts.values():
            if text.target not in ("", gone):
                continue
            if text.target:
                lost.append(text.request)
            text.num_asked = 0
            text.target = choose(text.request)
            if text.target:
                self._queue(text)
        return lost

    def __iter__(self) -> Iterator[tuple[Request, str]]:
        """Requests, and the target whose turn it is with their texts, "" for none."""
        return iter([(text.request, text.target) for text in self._texts.values()])
