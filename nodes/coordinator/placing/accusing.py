"""Who was on a target that died, and who of them is not tried again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import NodeOut
from nodes.coordinator.placing.suspects import Deaths, Suspicion
from nodes.coordinator.requests.request import Choice, Request

Held = tuple[Request, Choice]


def accuse(
    gone: NodeOut, held: Sequence[Held], deaths: Deaths, num_targets: int, now: float
) -> list[tuple[Request, Choice, tuple[str, str]]]:
    """Note with what a target died; those that are not tried again, with code and line.

    held: streams that it had. Texts are no suspects: they are read by a process of their own.
    num_targets: with this one.
    """
    if not gone.has_died:
        return []
    deaths.note(now)
    name, incarnation = gone.record.name, gone.record.incarnation
    num_new = sum(choice.is_new for _, choice in held)
    accused = []
    for request, choice in held:
        # Of what it had not heard yet it did not die.
        has_heard = choice.suspicion is None or gone.record.proved_at > choice.opened_at
        if choice.suspicion is None:
            choice.suspicion = Suspicion([name], [now])
        else:
            is_alone = num_new == 1 and has_heard
            choice.suspicion.lost(name, now - choice.opened_at, now, is_alone=is_alone)
            rate_hz = deaths.rate_hz(choice.suspicion.died_at, num_targets, now)
            verdict = choice.suspicion.verdict(rate_hz)
            if verdict is not None:
                accused.append((request, choice, verdict))
        if choice.is_new and has_heard:
            choice.suspicion.new_on[name] = incarnation
    return accused


def cleared_by_return(waiting: Iterable[Held], target: NodeRecord) -> list[Held]:
    """Suspects of a target's death that did not happen: its process is back."""
    return [
        (request, choice)
        for request, choice in waiting
        if choice.suspicion is not None
        and choice.suspicion.new_on.get(target.name) == target.incarnation
    ]


def cleared_by_verdict(waiting: Iterable[Held], convicted: Choice) -> list[Held]:
    """Suspects of a death for which somebody else is to blame."""
    assert convicted.suspicion is not None
    explained = convicted.suspicion.died_at
    return [
        (request, choice)
        for request, choice in waiting
        if choice.suspicion is not None and choice.suspicion.died_at[-1] in explained
    ]
