"""Queues texts at the targets that tokenize them, a few texts at a time. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from airdraft.mesh.latest import Latest
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.requests.request import Asked, Queued, Request
from airdraft.nodes.messages import EMBEDDING
from airdraft.nodes.scheduler.silences import Silences

# Texts sent to one target at a time, of so many characters together unless it is one text: it works
# on one while the others are in transit. The longest text takes it 0.7 s.
MAX_AT_ONCE: Final = 4
MAX_CHARS_AT_ONCE: Final = 1 << 15
_MOST_TENANTS: Final = 4096
# A text is sent again after this much silence, longer each time, plus the time that a slow machine
# may take for all texts sent.
_SILENT_S: Final = 10.0
_CHAR_S: Final = 5e-5
# A slow device's pass over the longest text.
_EMBEDDING_S: Final = 120.0
# A text that was sent so often without an answer is given up.
MOST_ASKED: Final = 4


@dataclass(frozen=True, slots=True)
class _Slot:
    """A text that a target works on, also after its request is over."""

    target: TargetRecord
    num_asked: int
    num_chars: int
    is_embedding: bool


class Texts:
    """The tenant that had the fewest characters tokenized is next, and within it owners take turns.

    silent: the targets that left a text unanswered for too long, and have answered none since.
    """

    def __init__(self) -> None:
        # Requests by number of their texts, by target, tenant and owner, the next owner of a tenant
        # first.
        self._queues: dict[TargetRecord, dict[str, dict[str, dict[int, Request]]]] = {}
        # Characters that were sent of each tenant. One that comes back begins where the tenant of
        # the last text was before it.
        self._spent = Latest[str, int](_MOST_TENANTS)
        self._begins_at = 0
        self._slots: dict[int, _Slot] = {}
        self._last_number = 0
        # When each target was last chosen for a text, as a count of choices.
        self._turns: dict[TargetRecord, int] = {}
        self._silences = Silences[int]()
        self.silent: set[TargetRecord] = set()

    def new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def turn_of(self, target: TargetRecord) -> int:
        """Returns a number that is lower, the longer ago a target was chosen for a text."""
        return self._turns.get(target, 0)

    def add(self, request: Request, phase: Queued) -> None:
        self._turns[phase.target] = 1 + max(self._turns.values(), default=0)
        tenants, tenant = self._queues.setdefault(phase.target, {}), request.tenant
        if tenant not in tenants:
            self._spent[tenant] = max(self._begins_at, self._spent_by(tenant))
        tenants.setdefault(tenant, {}).setdefault(request.owner, {})[phase.number] = request

    def remove(self, request: Request, phase: Queued) -> None:
        tenants = self._queues[phase.target]
        owners = tenants[request.tenant]
        del owners[request.owner][phase.number]
        if not owners[request.owner]:
            del owners[request.owner]
        if not owners:
            del tenants[request.tenant]

    def due(self) -> Iterator[Request]:
        """Yield the requests whose texts are to be sent now; asked() must follow each of them."""
        num_sent, num_chars = Counter[TargetRecord](), Counter[TargetRecord]()
        for slot in self._slots.values():
            num_sent[slot.target] += 1
            num_chars[slot.target] += slot.num_chars
        for target, tenants in self._queues.items():
            while tenants and num_sent[target] < MAX_AT_ONCE:
                request = self._next(tenants)
                num_chars[target] += request.num_submitted
                if num_sent[target] and num_chars[target] > MAX_CHARS_AT_ONCE:
                    break
                num_sent[target] += 1
                yield request
                # The next text of this tenant is that of another owner.
                owners = tenants.get(request.tenant, {})
                if request.owner in owners:
                    owners[request.owner] = owners.pop(request.owner)

    def _next(self, tenants: Mapping[str, Mapping[str, Mapping[int, Request]]]) -> Request:
        owners = tenants[min(tenants, key=self._spent_by)]
        return next(iter(next(iter(owners.values())).values()))

    def _spent_by(self, tenant: str) -> int:
        return self._spent.get(tenant, 0)

    def asked(self, request: Request, phase: Asked) -> None:
        """Count a text that is sent, and give it one of its target's slots."""
        self._begins_at = self._spent_by(request.tenant)
        self._spent[request.tenant] = self._begins_at + request.num_submitted
        is_embedding = request.submit.wants == EMBEDDING
        slot = _Slot(phase.target, phase.num_asked, request.num_submitted, is_embedding)
        self._slots[phase.number] = slot

    def answered(self, target: TargetRecord, number: int) -> None:
        """Take a target's answer to a text, whatever it says."""
        self.silent.discard(target)
        slot = self._slots.get(number)
        if slot is not None and slot.target is target:
            self.unsent(number)

    def unsent(self, number: int) -> None:
        """Give back the slot of a text, if it has one."""
        self._slots.pop(number, None)

    def has_slot(self, number: int) -> bool:
        return number in self._slots

    def newly_silent(self, now: float) -> set[TargetRecord]:
        """Returns the targets that have not answered a text for too long: a message was lost, or
        they cannot tokenize texts at present. The slots of these texts are given back."""
        if not self._silences.is_due(now):
            return set()
        slots = self._slots
        # The longest time that all sent texts may take, one after the other.
        work_s = _CHAR_S * sum(slot.num_chars for slot in slots.values())
        work_s += _EMBEDDING_S * sum(slot.is_embedding for slot in slots.values())
        waiting = [(n, (slot.target.name, slot.num_asked)) for n, slot in slots.items()]
        overdue = self._silences.overdue(
            waiting, lambda number: _SILENT_S * slots[number].num_asked + work_s, now
        )
        found = {slots.pop(number).target for number in overdue}
        self.silent |= found
        return found

    def target_out(self, target: TargetRecord) -> None:
        """Forget a target that has left; its queue is empty."""
        self._slots = {n: slot for n, slot in self._slots.items() if slot.target is not target}
        self._queues.pop(target, None)
        self._turns.pop(target, None)
        self.silent.discard(target)
