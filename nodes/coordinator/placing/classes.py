"""Which numerics class of a model serves a request. Pure.

It follows from the classes that are there and from the request, never from load: a text depends on
its class. So whoever asks again, or goes on with a conversation, is served by the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from nodes.class_weights import weight_of
from nodes.messages import EngineProfile
from nodes.profile import costs_of

_TICKET_BYTES = 8
# Scores are asked for again and again while requests wait.
_MOST_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a class of one model by the targets that have it. pass_s: of one token, on
    the fastest of them, as it was measured when that was calibrated."""

    is_exact: bool
    pass_s: float


# By model hash and name of the class.
Standings: TypeAlias = dict[str, dict[str, Standing]]


def standings_of(profiles: Iterable[EngineProfile]) -> Standings:
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
    """The numerics classes of a model, the one first that a request goes to.

    conversation: as conversation_of() gives it. weights: by the beginnings of names. Classes with a
    weight go first, by score. The others follow: exact ones, then fast ones, then by name.
    """
    classes = standings[model_hash]

    def place(name: str) -> tuple[int, bool, float, str]:
        weight, standing = weight_of(name, weights), classes[name]
        score = score_of(weight, model_hash, conversation, name) if weight else 0
        return -score, not standing.is_exact, standing.pass_s, name

    return sorted(classes, key=place)


@lru_cache(maxsize=_MOST_REMEMBERED)
def score_of(weight: int, model_hash: str, conversation: bytes, numerics_class: str) -> int:
    """The highest of as many tickets as a class has weight, each a hash; above 0.

    Of classes that draw for a conversation each has the highest ticket with a probability that is
    its share of all weights, and one that comes or goes changes the order of no others. Integers
    only, so that all coordinators agree.
    """
    drawn = hashlib.blake2b(digest_size=_TICKET_BYTES)
    for part in (model_hash.encode(), conversation, numerics_class.encode()):
        # Each with its length: no two lists of parts are the same bytes.
        drawn.update(len(part).to_bytes(4, "little") + part)
    highest = 0
    for number in range(weight):
        ticket = drawn.copy()
        ticket.update(number.to_bytes(4, "little"))
        highest = max(highest, int.from_bytes(ticket.digest(), "little"))
    return 1 + highest


def ambiguous(names: Sequence[str], weights: Mapping[str, int]) -> dict[str, list[str]]:
    """Beginnings that several of these classes have, each of which then has the weight."""
    found = {
        beginning: sorted(name for name in set(names) if name.startswith(beginning))
        for beginning in weights
    }
    return {beginning: several for beginning, several in found.items() if len(several) > 1}
