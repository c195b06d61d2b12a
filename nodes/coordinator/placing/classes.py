"""The order in which a request goes to the numerics classes of its model. Pure.

It follows from the present classes and from the request, never from load, because a text depends
on its class. A repeated request, or the next turn of a conversation, gets the same class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from nodes.config.class_weights import weight_of
from nodes.messages import EngineProfile
from nodes.worker.profile import costs_of

_TICKET_BYTES = 8
# The scores of a waiting request are needed each time that a target joins or leaves. The cache
# holds those of the waiting requests of some gateways, with a few classes each.
_MOST_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True)
class Standing:
    """What the targets of a class declared. is_exact: all of them are exact. pass_s: calibrated
    seconds of a pass of one token on the fastest of them."""

    is_exact: bool
    pass_s: float


# By model hash and name of the class.
Standings: TypeAlias = dict[str, dict[str, Standing]]


def standings_of(profiles: Iterable[EngineProfile]) -> Standings:
    """Returns the standing of each class of each model in these profiles."""
    found: Standings = {}
    for profile in profiles:
        mine = Standing(profile.exact, costs_of(profile).decode.at(1))
        classes = found.setdefault(profile.model_hash, {})
        other = classes.get(profile.numerics_class, mine)
        pass_s = min(mine.pass_s, other.pass_s)
        classes[profile.numerics_class] = Standing(mine.is_exact and other.is_exact, pass_s)
    return found


def classes_in_order(
    standings: Standings, model_hash: str, conversation: bytes, weights: Mapping[str, int]
) -> list[str]:
    """Returns the numerics classes of a model in the order in which a request tries them.

    conversation: as conversation_of() returns it. weights: by prefixes of names. Classes with a
    weight go first, by score. The others follow: exact ones first, then by pass_s, then by name.
    """
    classes = standings[model_hash]

    def place(name: str) -> tuple[int, bool, float, str]:
        weight, standing = weight_of(name, weights), classes[name]
        score = score_of(weight, model_hash, conversation, name) if weight else 0
        return -score, not standing.is_exact, standing.pass_s, name

    return sorted(classes, key=place)


@lru_cache(maxsize=_MOST_REMEMBERED)
def score_of(weight: int, model_hash: str, conversation: bytes, numerics_class: str) -> int:
    """Returns the highest of `weight` tickets of a class; a ticket is a hash above 0.

    Each class has the highest ticket for a share of the conversations that equals its share of all
    weights. A class that appears or disappears does not change the order of the others. This is
    rendezvous hashing with integers alone: weighted rendezvous hashing usually needs logarithms,
    whose last bit differs between machines, so that coordinators would disagree.
    """
    drawn = hashlib.blake2b(digest_size=_TICKET_BYTES)
    for part in (model_hash.encode(), conversation, numerics_class.encode()):
        # The length of each part makes sure that no two lists of parts give the same bytes.
        drawn.update(len(part).to_bytes(4, "little") + part)
    highest = 0
    for number in range(weight):
        ticket = drawn.copy()
        ticket.update(number.to_bytes(4, "little"))
        highest = max(highest, int.from_bytes(ticket.digest(), "little"))
    return 1 + highest


def ambiguous(names: Sequence[str], weights: Mapping[str, int]) -> dict[str, list[str]]:
    """Returns the prefixes that match several of these classes, with the names of the classes."""
    found = {
        beginning: sorted(name for name in set(names) if name.startswith(beginning))
        for beginning in weights
    }
    return {beginning: several for beginning, several in found.items() if len(several) > 1}
