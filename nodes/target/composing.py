"""What a target knows of its passes, and which guesses it takes into the next one by that. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from nodes.messages import MAX_GAMMA
from nodes.target.lookup import Lookup
from nodes.target.stream import TargetStream
from policies.compose import Offer, composed
from policies.latency import NodeCosts, TableRefit

# How fast a stream's average of tokens a pass follows: some 20 passes.
_RATE: Final = 0.05
# No stream counts more than twice or less than half the mean: one that gets few tokens a pass must
# not take all guesses away from the others.
_MOST_WEIGHT: Final = 2.0
# Guesses that the chances which draft nodes state are trusted like, and how fast newer ones count.
_TRUSTED_GUESSES: Final = 50.0
_MEMORY: Final = 0.99


@dataclass(slots=True)
class PassCosts:
    """Seconds of a target's passes as calibrated and as seen since, and how far the chances of the
    guesses that it chose were true: those are chosen because they look good.
    """

    table: TableRefit
    _expected: float = 0.0
    _right: float = 0.0

    @classmethod
    def of(cls, costs: NodeCosts) -> PassCosts:
        return cls(TableRefit(costs.decode))

    @property
    def trust(self) -> float:
        """What a stated chance is multiplied with."""
        return (self._right + _TRUSTED_GUESSES) / (self._expected + _TRUSTED_GUESSES)

    def judged(self, chances: Sequence[float], num_right: int) -> None:
        """Chosen guesses of a stream were verified; chances: as stated, of each by itself."""
        judged = chances[: num_right + 1]
        self._expected = _MEMORY ** len(judged) * self._expected + sum(judged)
        self._right = _MEMORY ** len(judged) * self._right + num_right


@dataclass(frozen=True, slots=True)
class Chosen:
    """Guesses that a stream brings into a pass. chances: (g,) of each by itself, as stated.
    is_looked_up: they are not a draft node's. num_offered: guesses of the draft node that were
    there; best_chance: of the first guess that there was, taken or not."""

    token_ids: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
    is_looked_up: bool = False
    num_offered: int = 0
    best_chance: float = 0.0


NOTHING: Final = Chosen()


def compose(
    decoding: Sequence[TargetStream],
    costs: PassCosts,
    lookup: Lookup,
    *,
    num_read: int,
    used_cells: int,
    room: int,
) -> list[Chosen]:
    """The guesses that each stream brings into the pass.

    num_read: tokens of prompts that ride along. used_cells: of the cache. room: guesses that there
    is room for. A stream whose client chose a number of guesses brings that many, if they are here.
    """
    trust, chosen, offers = costs.trust, list[Chosen](), list[Offer]()
    num_given, given_worth = 0, 0.0
    weights = weights_of(decoding)
    own = [len(stream.token_ids) for stream in decoding]
    for stream, weight in zip(decoding, weights, strict=True):
        most = min(MAX_GAMMA, stream.tokens_left - 1, room - num_given)
        asked = stream.spec.num_guesses
        if asked >= 0:
            most = min(most, asked)
        best, likely = _best(stream, lookup, trust, max(0, most))
        chosen.append(best)
        if asked >= 0:
            num_given += len(best.token_ids)
            given_worth += weight * sum(likely)
            likely = []
        offers.append(Offer(weight, likely))
    own_cells = sum(own) / max(1, len(own))
    counts = composed(
        offers,
        lambda num_tokens: costs.table.table.at(num_tokens, used_cells, own_cells),
        num_given=num_given,
        given_worth=given_worth,
        num_read=num_read,
        most=max(0, room - num_given),
    )
    return [
        best
        if stream.spec.num_guesses >= 0
        else replace(best, token_ids=best.token_ids[:count], chances=best.chances[:count])
        for stream, best, count in zip(decoding, chosen, counts, strict=True)
    ]


def _best(
    stream: TargetStream, lookup: Lookup, trust: float, most: int
) -> tuple[Chosen, list[float]]:
    """The guesses of whoever promises the most accepted ones, and the chance that the first,
    second, ... and all before it are right."""
    token_ids, chances = stream.buffer.after(len(stream.token_ids))
    found = lookup.propose(stream.spec.stream_id, most)
    options = (
        Chosen(tuple(token_ids[:most]), tuple(chances[:most])),
        Chosen(tuple(found.token_ids[:most]), tuple(found.chances[:most]), is_looked_up=True),
    )
    judged = [(each, _likely(each.chances, trust)) for each in options]
    best, likely = max(judged, key=lambda pair: sum(pair[1]))
    num_offered = min(MAX_GAMMA, len(token_ids))
    return replace(best, num_offered=num_offered, best_chance=likely[0] if likely else 0.0), likely


def _likely(chances: Sequence[float], trust: float) -> list[float]:
    true = (min(1.0, trust * chance) for chance in chances)
    return list(itertools.accumulate(true, lambda a, b: a * b))


def weights_of(streams: Sequence[TargetStream]) -> list[float]:
    """What a token of each counts: what its client's requests count, and the more the fewer tokens
    a pass gives it, so that the sum of seconds a token is what gets small."""
    weights = [stream.spec.weight / stream.tokens_a_pass for stream in streams]
    mean = sum(weights) / max(1, len(weights))
    return [min(_MOST_WEIGHT * mean, max(mean / _MOST_WEIGHT, weight)) for weight in weights]


def note_commit(stream: TargetStream, num_tokens: int) -> None:
    """A pass has added tokens to a stream."""
    stream.tokens_a_pass += _RATE * (num_tokens - stream.tokens_a_pass)
