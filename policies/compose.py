"""Which of the guesses that are there go into the next pass of a target. Pure.

A pass of more tokens takes longer, and a guess is worth the chance that it is accepted. So the pass
is composed that makes the most weighted tokens a second. This is the speculation length of Zhu et
al. 2025, solved for every stream in every pass instead of once for a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """The guesses that a stream has for its next tokens.

    weight: what a token of the stream counts. chances: (g,) chance that the first, second, ...
    guess *and all before it* are accepted, which never rises.
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
    """How many of its guesses each stream brings, in the order of the offers.

    Each stream has a token of its own in the pass. pass_s: seconds of a pass by its tokens.
    num_given, given_worth: guesses that go in whatever they cost, and the weighted tokens that are
    expected of them. num_read: tokens of prompts in the pass; what they take by themselves would
    have to be paid anyway and is left out. most: guesses that the pass has room for.

    For every number of guesses the best choice is that of the greatest weighted chances, and
    chances fall along a stream, so trying every number in that order is exact where all tokens cost
    the same. No guess is always a candidate: a pass with guesses is never predicted to be worse.
    """
    candidates = [
        (offer.weight * chance, index)
        for index, offer in enumerate(offers)
        for chance in offer.chances
    ]
    # Sorting is stable: of equals the earlier guess of a stream comes first.
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
