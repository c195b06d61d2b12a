"""Chooses when a draft model on the target's own cores guesses, and for which streams. Pure.

Where both models share the cores, a step of the draft delays the next pass. So it is made only
while the tokens that it promises are worth more than its time: whatever costs a second has to earn
as many tokens as an average second does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# What an answer is expected to have left besides as much as it has so far, in tokens. An answer
# that is short does not repay the reading of a long prompt by the draft.
_LEFT: Final = 128


@dataclass(frozen=True, slots=True)
class Prices:
    """What time and tokens cost now.

    rate: weighted tokens a second that this machine earns. pass_s, step_s: seconds of a pass of the
    target and of a step of the draft by their tokens.
    """

    rate: float
    pass_s: Callable[[int], float]
    step_s: Callable[[int], float]

    def longer(self, num_tokens: int, num_more: int) -> float:
        """Returns what num_more more tokens make a pass cost, in weighted tokens."""
        return self.rate * (self.pass_s(num_tokens + num_more) - self.pass_s(num_tokens))


@dataclass(frozen=True, slots=True)
class Turn:
    """A stream for which the next step of the draft may guess.

    gain: weighted tokens that the guess is expected to add. num_new: tokens that the step runs
    for it: unread ones and its last guess.
    """

    gain: float
    num_new: int


def worthwhile(turns: Sequence[Turn], prices: Prices, num_tokens: int) -> list[int]:
    """Returns the indices of the streams for which a step pays now; none if no step does.

    num_tokens: tokens that the next pass has without the step.
    """
    order = sorted(range(len(turns)), key=lambda index: -turns[index].gain)
    best, num_best, gain, num_new = 0.0, 0, 0.0, 0
    for count, index in enumerate(order, 1):
        gain += turns[index].gain
        num_new += turns[index].num_new
        net = gain - prices.longer(num_tokens, count) - prices.rate * prices.step_s(num_new)
        if net > best:
            best, num_best = net, count
    return order[:num_best]


def net_of(
    likely: Iterable[float], prices: Prices, num_streams: int, steps_s: float = 0.0
) -> tuple[float, float]:
    """Returns what a stream's guesses add to a pass at best, and the tokens that they bring.

    Both are weighted tokens; of the first one the time that they cost is subtracted. likely: for
    each guess the weighted chance that it and all before it are right. num_streams: streams in the
    pass, of which each has as many guesses. steps_s: seconds of the step that makes a guess.
    """
    net, earned, best = 0.0, 0.0, (0.0, 0.0)
    for place, chance in enumerate(likely, 1):
        longer = prices.longer(place * num_streams, num_streams)
        earned += chance
        net += chance - (longer + prices.rate * steps_s) / num_streams
        if net > best[0]:
            best = net, earned
    return best


def repays(
    net: float, tokens_a_pass: float, num_output: int, tokens_left: int, cost: float
) -> bool:
    """Whether an answer is expected to be long enough for an investment, such as its reading.

    net: weighted tokens that each pass gains by it. cost: the weighted tokens that it costs.
    """
    expected = min(tokens_left, num_output + _LEFT)
    return net * expected / tokens_a_pass > cost
