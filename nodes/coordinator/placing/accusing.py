"""Finds the streams that a target may have died of, and those not to be tried again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nodes.coordinator.members.roster import NodeOut
from nodes.coordinator.placing.suspects import Deaths, Suspicion
from nodes.coordinator.requests.request import Choice, Request

Held = tuple[Request, Choice]


def accuse(
    gone: NodeOut, held: Sequence[Held], deaths: Deaths, num_targets: int, now: float
) -> list[tuple[Request, Choice, tuple[str, str]]]:
    """Raise the suspicion against the streams of a target that died.

    held: its streams. Texts to tokenize are no suspects, because a separate process reads them.
    num_targets: including this one. Returns the streams that are not tried again, each with the
    code and reason of its error.
    """
    if not gone.has_died:
        return []
    deaths.note(now)
    name, incarnation = gone.record.name, gone.record.incarnation
    num_new = sum(choice.is_new for _, choice in held)
    accused = []
    for request, choice in held:
        # A stream that the target had not received yet cannot be the cause.
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


def cleared_by_life(waiting: Iterable[Held], name: str, incarnation: int) -> list[Held]:
    """Return the suspects of the death of a process that lives."""
    return [
        (request, choice)
        for request, choice in waiting
        if choice.suspicion is not None and choice.suspicion.new_on.get(name) == incarnation
    ]


def cleared_by_verdict(waiting: Iterable[Held], convicted: Choice) -> list[Held]:
    """Return the suspects of deaths that the convicted stream caused."""
    assert convicted.suspicion is not None
    explained = convicted.suspicion.died_at
    return [
        (request, choice)
        for request, choice in waiting
        if choice.suspicion is not None and choice.suspicion.died_at[-1] in explained
    ]
