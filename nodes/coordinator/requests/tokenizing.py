"""Has targets tokenize the texts of requests, a few texts at a time.

Requests with token ids that wait for a target are here as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mesh.json_form import copied_from
from mesh.latest import Latest
from nodes.coordinator.placing.waiting import Waits
from nodes.coordinator.requests.request import Request
from nodes.messages import EMBEDDING, TokenizeRequest
from nodes.scheduler.silences import Silences

# Texts sent to one target at a time, of so many characters together unless it is one text: it works
# on one while the others are in transit. The longest text takes it 0.7 s.
MAX_AT_ONCE = 4
MAX_CHARS_AT_ONCE = 1 << 15
_MOST_TENANTS = 4096
# A text is sent again after this much silence, longer each time, plus the time that a slow machine
# may take for all texts sent.
_SILENT_S = 10.0
_CHAR_S = 5e-5
# A slow device's pass over the longest text.
_EMBEDDING_S = 120.0
_MOST_ASKED_AGAIN = 3


@dataclass(slots=True)
class Text:
    """A request's text. target: the target that tokenizes it, "" while there is none."""

    number: int
    request: Request
    target: str
    num_asked: int = 0


class Tokenizing:
    """Requests that are not streams yet.

    The tenant that had the fewest characters tokenized is next, and within it owners take turns.
    """

    def __init__(self, waits: Waits) -> None:
        """waits: counts the streams that these requests will become."""
        self._waits = waits
        self._texts: dict[int, Text] = {}
        self._text_of: dict[Request, Text] = {}
        # Ordered numbers of texts by target, tenant and owner, the next owner of a tenant first.
        self._queues: dict[str, dict[str, dict[str, dict[int, None]]]] = {}
        # Characters that were sent of each tenant. One that comes back begins where the tenant of
        # the last text was before it.
        self._spent = Latest[str, int](_MOST_TENANTS)
        self._begins_at = 0
        # Texts sent and not answered yet, including those of requests that have ended, because the
        # target still works on them.
        self._sent: dict[int, Text] = {}
        self._next_number = 1
        # The number of the last text that each target was chosen for.
        self._turns: dict[str, int] = {}
        self._silences = Silences[int]()
        # Targets that left a text unanswered for too long, and have answered none since.
        self.silent: set[str] = set()

    def add(self, request: Request, target: str) -> None:
        """Queue a request's text for the target of that name; "" if none has joined yet."""
        number = self._next_number
        self._next_number += 1
        text = Text(number, request, target)
        self._texts[number] = self._text_of[request] = text
        self._waits.add(request, _num_waiting(request))
        if target:
            self._queue(text)

    def turn_of(self, target: str) -> int:
        """Return a number that is lower, the longer ago a target was chosen for a text."""
        return self._turns.get(target, 0)

    def _queue(self, text: Text) -> None:
        self._turns[text.target] = 1 + max(self._turns.values(), default=0)
        tenants, tenant = self._queues.setdefault(text.target, {}), text.request.tenant
        if tenant not in tenants:
            self._spent[tenant] = max(self._begins_at, self._spent_by(tenant))
        owners = tenants.setdefault(tenant, {})
        owners.setdefault(text.request.owner, {})[text.number] = None

    def due(self) -> list[tuple[str, TokenizeRequest]]:
        """Return the texts to send now, each with the name of its target."""
        out = []
        num_sent, num_chars = Counter[str](), Counter[str]()
        for text in self._sent.values():
            num_sent[text.target] += 1
            num_chars[text.target] += text.request.num_submitted
        for target, tenants in self._queues.items():
            while tenants and num_sent[target] < MAX_AT_ONCE:
                text = self._next(tenants)
                num_chars[target] += text.request.num_submitted
                if num_sent[target] and num_chars[target] > MAX_CHARS_AT_ONCE:
                    break
                num_sent[target] += 1
                self._begins_at = self._spent_by(text.request.tenant)
                self._spent[text.request.tenant] = self._begins_at + text.request.num_submitted
                self._unqueue(text)
                # The next text of this tenant is that of another owner.
                owners, owner = tenants.get(text.request.tenant, {}), text.request.owner
                if owner in owners:
                    owners[owner] = owners.pop(owner)
                self._sent[text.number] = text
                text.num_asked += 1
                submit = text.request.submit
                ids = submit.prompt_token_ids if submit.wants else ()
                known = {"request_id": text.number, "token_ids": ids}
                out.append((target, copied_from(submit, TokenizeRequest, **known)))
        return out

    def _next(self, tenants: Mapping[str, Mapping[str, Mapping[int, None]]]) -> Text:
        owners = tenants[min(tenants, key=self._spent_by)]
        return self._texts[next(iter(next(iter(owners.values()))))]

    def _spent_by(self, tenant: str) -> int:
        return self._spent.get(tenant, 0)

    def answered(self, target: str, number: int) -> Request | None:
        """Take a target's answer. Returns the request whose text it was to read, if it goes on."""
        self.silent.discard(target)
        sent = self._sent.get(number)
        if sent is not None and sent.target == target:
            del self._sent[number]
        text = self._texts.get(number)
        if text is None or text.target != target:
            return None
        self._forget(text)
        return text.request

    def _unqueue(self, text: Text) -> None:
        tenants, request = self._queues.get(text.target, {}), text.request
        owners = tenants.get(request.tenant, {})
        numbers = owners.get(request.owner, {})
        if text.number in numbers:
            del numbers[text.number]
            if not numbers:
                del owners[request.owner]
            if not owners:
                del tenants[request.tenant]

    def _forget(self, text: Text) -> None:
        request = text.request
        self._unqueue(text)
        del self._texts[text.number]
        del self._text_of[request]
        self._waits.add(request, -_num_waiting(request))

    def unsent(self, number: int) -> Request | None:
        """Note that a text could not be sent; return its request if that has not ended."""
        self._sent.pop(number, None)
        text = self._texts.get(number)
        return None if text is None else text.request

    def overdue(self, choose: Callable[[Request], str], now: float) -> list[Request]:
        """Queue texts again whose target has been silent for too long: a message was lost, or the
        target cannot tokenize texts at present.

        choose: as in targets_changed(). Returns the requests whose texts have already been sent too
        often.
        """
        if not self._silences.is_due(now):
            return []
        sent = self._sent.values()
        # The longest time that all sent texts may take, one after the other.
        work_s = _CHAR_S * sum(text.request.num_submitted for text in sent)
        work_s += _EMBEDDING_S * sum(text.request.submit.wants == EMBEDDING for text in sent)

        def limit_s(number: int) -> float:
            return _SILENT_S * self._sent[number].num_asked + work_s

        hopeless, silent = [], set[str]()
        waiting = [(n, (text.target, text.num_asked)) for n, text in self._sent.items()]
        for number in self._silences.overdue(waiting, limit_s, now):
            text = self._sent.pop(number)
            silent.add(text.target)
            if number in self._texts and text.num_asked > _MOST_ASKED_AGAIN:
                hopeless.append(text.request)
        self.silent |= silent
        for number, text in self._texts.items():
            if text.target in silent and number not in self._sent:
                self._unqueue(text)
                text.target = choose(text.request) or text.target
                self._queue(text)
        return hopeless

    def drop(self, request: Request) -> None:
        """Remove the text of a request that has ended; a late answer to it is ignored."""
        if (text := self._text_of.get(request)) is not None:
            self._forget(text)

    def targets_changed(self, choose: Callable[[Request], str], gone: str = "") -> list[Request]:
        """Assign a target to texts without one and to those of the target that is gone.

        choose: returns the target that tokenizes a request's text; "" while there is none.
        Returns the requests whose texts the target that is gone had.
        """
        self._sent = {n: text for n, text in self._sent.items() if text.target != gone}
        self._queues.pop(gone, None)
        self._turns.pop(gone, None)
        self.silent.discard(gone)
        lost = []
        for text in self._texts.values():
            if text.target not in ("", gone) or not text.request.needs_reading:
                continue
            if text.target:
                lost.append(text.request)
            text.num_asked = 0
            text.target = choose(text.request)
            if text.target:
                self._queue(text)
        return lost

    def ends_at(self, target: str) -> bool:
        """Whether a target has texts of requests that end with its answer."""
        texts = self._texts.values()
        return any(text.target == target and text.request.submit.wants for text in texts)

    def __iter__(self) -> Iterator[tuple[Request, str]]:
        """Yield each request with the target of its text, "" if it has none."""
        return iter([(text.request, text.target) for text in self._texts.values()])


def _num_waiting(request: Request) -> int:
    """Return the streams that a request counts as; one that only reads its prompt counts as one."""
    return 1 if request.submit.wants else request.submit.num_choices
