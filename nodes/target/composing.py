"""Chooses the guesses of a target's next pass by the costs of its passes. Pure."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nodes.messages import MAX_GAMMA
from nodes.target.proposals import Proposer
from nodes.target.stream import NOTHING, Chosen, TargetStream
from policies.guesses import Offer, composed
from policies.latency import CostTable


def compose(
    decoding: Sequence[TargetStream],
    reading: Sequence[TargetStream],
    costs: CostTable,
    proposers: Sequence[Proposer],
    *,
    num_read: int,
    used_cells: int,
    room: int,
) -> list[Chosen]:
    """Returns the guesses of each decoding stream for the pass.

    reading: streams whose texts are being read. A longer pass delays them like the others, so they
    count as if they had a token in it, too. num_read: tokens of prompts that the pass also reads.
    used_cells: used cells of the cache. room: most guesses that fit. A stream whose client fixed
    the number of guesses gets that many, if they are present.
    """
    chosen, offers = list[Chosen](), list[Offer]()
    num_given, given_worth = 0, 0.0
    # So the weighted sum of seconds a token is minimised.
    weights = [stream.spec.weight / stream.tokens_a_pass for stream in decoding]
    own = [len(stream.token_ids) for stream in decoding]
    for stream, weight in zip(decoding, weights, strict=True):
        most = min(MAX_GAMMA, stream.tokens_left - 1, room - num_given) if stream.may_guess else 0
        fixed = stream.spec.num_guesses
        if fixed >= 0:
            most = min(most, fixed)
        best, likely = best_of(stream, proposers, max(0, most))
        chosen.append(best)
        if fixed >= 0:
            num_given += len(best.token_ids)
            given_worth += weight * sum(likely)
            likely = []
        offers.append(Offer(weight, likely))
    # After those of the decoding streams, so that the first counts are for these.
    offers += [Offer(stream.spec.weight / stream.tokens_a_pass, []) for stream in reading]
    own_cells = sum(own) / max(1, len(own))
    counts = composed(
        offers,
        lambda num_tokens: costs.at(num_tokens, used_cells, own_cells),
        num_given=num_given,
        given_worth=given_worth,
        num_read=num_read,
        most=max(0, room - num_given),
    )
    return [
        best if stream.spec.num_guesses >= 0 else replace(best, token_ids=best.token_ids[:count])
        for stream, best, count in zip(decoding, chosen, counts[: len(decoding)], strict=True)
    ]


def best_of(
    stream: TargetStream, proposers: Sequence[Proposer], most: int
) -> tuple[Chosen, list[float]]:
    """Returns the guesses of a draft node or a proposer, whichever promise more accepted tokens.

    Second, for each guess the chance that it and all before it are right.
    """
    token_ids, chances = stream.buffer.after(len(stream.token_ids))
    num_offered = min(MAX_GAMMA, len(token_ids))
    best, source, likely = token_ids, NOTHING.source, _likely(chances[:most])
    first = max(chances[:1], default=0.0)
    for proposer in proposers:
        found = proposer.propose(stream.spec.stream_id, most)
        first = max([first, *found.chances[:1]])
        if sum(proposed := _likely(found.chances[:most])) > sum(likely):
            best, source, likely = found.token_ids, proposer.source, proposed
    return Chosen(tuple(best[:most]), source, num_offered, first), likely


def _likely(chances: Sequence[float]) -> list[float]:
    """Returns for each guess the chance that it and all before it are right."""
    return list(itertools.accumulate(chances, operator.mul))


def ready_at(stream: TargetStream) -> float:
    """Returns the time when a stream's wait ends; -inf if it waits for nothing (any longer)."""
    hold = stream.hold
    if hold is None:
        return -math.inf
    guesses, _ = stream.buffer.after(len(stream.token_ids))
    if len(guesses) >= min(hold.num_guesses, stream.tokens_left - 1):
        return -math.inf
    return stream.last_commit_at + hold.hold_us * 1e-6


def eligible_at(streams: Iterable[TargetStream]) -> dict[int, float]:
    """Returns for each group the time when the waits of all its members have ended."""
    found: dict[int, float] = {}
    for stream in streams:
        if stream.hold is not None:
            group = stream.hold.group
            found[group] = max(found.get(group, -math.inf), ready_at(stream))
    return found


def patience_s(decoding: Sequence[TargetStream], now: float) -> float:
    """Returns the seconds until the first group's wait ends; 0.0 if a stream is in no group."""
    if not all(stream.hold for stream in decoding):
        return 0.0
    return max(0.0, min(eligible_at(decoding).values(), default=now) - now)


def waiting_groups(decoding: Iterable[TargetStream], now: float) -> frozenset[int]:
    """Returns the groups that still wait for guesses."""
    return frozenset(group for group, at in eligible_at(decoding).items() if at > now)
