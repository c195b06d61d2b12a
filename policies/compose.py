"""Chooses which of the present guesses go into the next pass of a target. Pure.

Each guess makes the pass longer, and adds tokens only with the chance that it is accepted. The
chosen pass gives the most weighted tokens a second. This is the speculation length of Zhu et al.
2025, solved for every stream in every pass instead of once for a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """The guesses that a stream has for its next tokens.

    weight: weight of a token of the stream. chances: (g,) chance that the first, second, ... guess
    *and all before it* are accepted; they never rise.
    """

    weight: float
    chances: Sequence[float]


def composed(
    offers: Sequence[Offer],
    pass_s: Callable[[int], float],
    *,
    num_given: int = 0,
    given_worth: float = 0.0,
    num_read: int = 0,
    most: int,
) -> list[int]:
    """Returns how many of its guesses each stream gets, in the order of the offers.

    Each stream has a token of its own in the pass. pass_s: seconds of a pass by its tokens.
    num_given, given_worth: guesses that are in the pass at any cost, and the weighted tokens that
    are expected of them. num_read: tokens of prompts in the pass; their own cost is left out,
    because it has to be paid anyway. most: most guesses that fit in the pass.

    For a given number of guesses, those with the greatest weighted chances are best. Chances fall
    along a stream, so trying every number in this order is exact if all tokens cost the same. The
    pass without guesses is a candidate, so a pass with guesses is never predicted to be worse.
    """
    candidates = [
        (offer.weight * chance, index)
        for index, offer in enumerate(offers)
        for chance in offer.chances
    ]
    # The sort is stable, so among equals the earlier guess of a stream comes first.
    candidates.sort(key=lambda candidate: -candidate[0])
    num_own = len(offers) + num_given
    own_s = pass_s(num_own)
    reading_s = pass_s(num_own + num_read) - own_s if num_read else 0.0
    worth = sum(offer.weight for offer in offers) + given_worth
    best, num_taken = worth / own_s, 0
    for count, (gain, _) in enumerate(candidates[:most], 1):
        worth += gain
        rate = worth / (pass_s(num_own + count + num_read) - reading_s)
        if rate > best:
            best, num_taken = rate, count
    counts = [0] * len(offers)
    for _, index in candidates[:num_taken]:
        counts[index] += 1
    return counts
