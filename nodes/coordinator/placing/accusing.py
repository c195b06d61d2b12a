"""Who was on a target that died, and who of them is not tried again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.coordinator.members.roster import NodeOut
from nodes.coordinator.placing.suspects import Deaths, Suspicion
from nodes.coordinator.requests.request import Choice, Request
from nodes.coordinator.requests.tokenizing import Text

# What a text takes to be tokenized, at most.
_TEXT_S = 1.0


def accuse(
    gone: NodeOut,
    held: Sequence[tuple[Request, Choice]],
    texts: Sequence[Text],
    num_texts: int,
    deaths: Deaths,
    num_targets: int,
    now: float,
) -> list[tuple[Request, tuple[str, str]]]:
    """Note with what a target died; those that are not tried again, with code and line.

    held: streams that it had. texts: of requests that go on, which it read; num_texts: all that it
    read, since it may have died of one whose request had ended. num_targets: with this one.
    """
    if not gone.has_died:
        return []
    deaths.note(now)
    name = gone.record.name
    num_new = sum(choice.is_new for _, choice in held) + num_texts
    # Since when each was new to it; of what it had not heard yet it did not die.
    losses: list[tuple[Request, Choice | Text, float]] = [(r, c, c.opened_at) for r, c in held]
    losses += [(text.request, text, now - _TEXT_S) for text in texts]
    accused = []
    for request, who, since in losses:
        if who.suspicion is None:
            who.suspicion = Suspicion([name], [now])
            continue
        seen_at = gone.last_seen if isinstance(who, Text) else gone.record.proved_at
        is_alone = num_new == 1 and seen_at > since
        who.suspicion.lost(name, now - since, now, is_alone=is_alone)
        rate_hz = deaths.rate_hz(who.suspicion.died_at, num_targets, now)
        verdict = who.suspicion.verdict(rate_hz)
        if verdict is not None:
            accused.append((request, verdict))
    return accused
