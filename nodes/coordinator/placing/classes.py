"""Which numerics class of a model serves a request. Pure.

It follows from the classes that are there and from the request, never from load: a text depends on
its class. So whoever asks again, or goes on with a conversation, is served by the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from nodes.class_weights import weight_of
from nodes.messages import EngineProfile
from nodes.profile import costs_of

_TICKET_BYTES = 8
# Scores are asked for again and again while requests wait.
_MOST_REMEMBERED = 65_536


def classes_in_order(
    profiles: Iterable[EngineProfile], conversation: bytes, weights: Mapping[str, int]
) -> list[str]:
    """The numerics classes of one model, the one first that a request goes to.

    profiles: of targets of the model. conversation: as conversation_of() gives it. weights: by the
    beginnings of names. Classes with a weight go first, by score. The others follow: exact ones,
    then those whose fastest target takes the least for a pass of one token, as it was measured.
    """
    kin: dict[str, list[EngineProfile]] = {}
    for profile in profiles:
        kin.setdefault(profile.numerics_class, []).append(profile)

    def place(name: str) -> tuple[int, bool, float, str]:
        score = 0
        if weight := weight_of(name, weights):
            score = score_of(weight, kin[name][0].model_hash, conversation, name)
        is_exact = all(profile.exact for profile in kin[name])
        pass_s = min(costs_of(profile).decode.at(1) for profile in kin[name])
        return -score, not is_exact, pass_s, name

    return sorted(kin, key=place)


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
