"""Predicts the speed of streams in open flow, where no pass waits for guesses. Pure.

The time from one wrong guess to the next has two parts. First the draft node is behind: every pass
commits one token of the target, until the guesses have overtaken it, if they are right. From then
on each pass has the guesses that were made since the one before, except the one in the place of the
target's own token, as long as all are right, or another chain goes on from the wrong one. The
seconds of a pass depend on the guesses of all streams, so both are found by iteration.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final, NamedTuple

from airdraft.policies.acceptance import expected_tokens
from airdraft.policies.plan import ENTRY_BITS, HEADER_BITS, MAX_AUTO_GAMMA, DraftView, Observation

_NUM_ITERATIONS: Final = 4


class _GuessTimes(NamedTuple):
    """The seconds that guesses for one stream take.

    lag_s: from a commit until the first guess after it reaches the target. step_s: from one guess
    to the next. other: how often another chain goes on from a wrong guess.
    """

    lag_s: float
    step_s: float
    other: float = 0.0


_NEVER: Final = _GuessTimes(0.0, math.inf)


def open_price_s(observation: Observation) -> float:
    """Returns the predicted weighted sum over streams of seconds a token, as `Prediction.price_s`.

    It is 0.0 if there are no streams or the target's costs are not known.
    """
    target = observation.target
    if target is None or not observation.streams:
        return 0.0
    num_streams = len(observation.streams)
    slow = 1.0 / (1.0 - observation.prefill_share)

    def pass_s(num_tokens: float) -> float:
        return target.decode.at(num_tokens, observation.used_cells) * slow

    followed = Counter(view.draft for view in observation.streams)
    times: dict[str | None, _GuessTimes] = {
        node.name: _guess_times(node, followed[node.name], observation.token_bits)
        for node in observation.drafts
    }
    asked = [
        (view.alpha, times.get(view.draft if view.fixed_gamma != 0 else None, _NEVER))
        for view in observation.streams
    ]
    best = last_s = math.inf
    # The target takes at most so many guesses of a stream in a pass.
    for cap in range(2 * MAX_AUTO_GAMMA + 1):
        longest_s = pass_s(num_streams)
        for _ in range(_NUM_ITERATIONS):
            flows = [_flow(alpha, guessing, longest_s, cap) for alpha, guessing in asked]
            num_guesses = sum(guesses for _, guesses in flows)
            longest_s = (longest_s + pass_s(num_streams + num_guesses)) / 2.0
        price_s = sum(
            view.weight * longest_s / tokens
            for view, (tokens, _) in zip(observation.streams, flows, strict=True)
        )
        if price_s == last_s:
            # The last limit left out no guesses, so larger ones change nothing.
            break
        best, last_s = min(best, price_s), price_s
    return best


def tokens_a_pass(
    alpha: float, node: DraftView, num_followed: int, pass_s: float, token_bits: int
) -> float:
    """Mean tokens that a pass commits to a stream whose guesses are right with the chance alpha, if
    the node follows so many streams and the target takes all its guesses, within limits."""
    return _flow(alpha, _guess_times(node, num_followed, token_bits), pass_s, 2 * MAX_AUTO_GAMMA)[0]


def _guess_times(node: DraftView, num: int, token_bits: int) -> _GuessTimes:
    """num: streams that the node follows."""
    step_s = node.costs.decode.at(num, node.used_cells)
    each_bits = ENTRY_BITS + token_bits
    up_s = node.link.airtime_s(HEADER_BITS + num * each_bits, 1) / node.share_up
    down_s = node.link.airtime_s(HEADER_BITS + num * each_bits, 1) / node.share_down
    # While the link is busy with one message, later guesses are collected for the next one.
    busy_s = node.link.airtime_s(each_bits * num, 0) / node.share_up
    return _GuessTimes(node.link.rtt_s + step_s + up_s + down_s, max(step_s, busy_s), node.other)


def _flow(alpha: float, guessing: _GuessTimes, pass_s: float, cap: int) -> tuple[float, float]:
    """Returns the mean tokens and the mean guesses of a stream in a pass."""
    lag_s, step_s, other = guessing
    if step_s >= pass_s or not cap:
        return 1.0, 0.0
    behind = max(1, math.ceil(lag_s / (pass_s - step_s) - 1e-9))
    first = min(cap, max(1, math.floor((behind * pass_s - lag_s) / step_s) + 1 - behind))
    # One of the guesses made during a pass is for the place of the target's own token.
    later = min(float(cap), pass_s / step_s - 1.0)
    return _renewal(min(alpha, 0.999), min(other, 0.999), behind, first, later)


def _renewal(
    alpha: float, other: float, behind: int, first: float, later: float
) -> tuple[float, float]:
    """Returns tokens and guesses a pass, averaged from one wrong guess to the next from which no
    chain goes on.

    behind: passes without guesses. first: guesses of the pass after them. later: guesses of each
    pass after that.
    """
    goes_on = alpha + (1.0 - alpha) * other
    overtakes = goes_on**behind
    num_plain = (1.0 - overtakes) / (1.0 - goes_on)
    after_first, after_later = (
        right + (1.0 - right) * other for right in (alpha ** (first + 1), alpha ** (later + 1))
    )
    num_later = after_first / (1.0 - after_later)
    passes = num_plain + overtakes * (1.0 + num_later)
    tokens = _expected(alpha, first) + num_later * _expected(alpha, later)
    guesses = first + num_later * later
    return (num_plain + overtakes * tokens) / passes, overtakes * guesses / passes


def _expected(alpha: float, gamma: float) -> float:
    """Returns expected_tokens() for a number of guesses that need not be whole."""
    low = math.floor(gamma)
    return expected_tokens(alpha, low) + (gamma - low) * alpha ** (low + 1)
