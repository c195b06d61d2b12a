"""What rounds on trial have told of a stream so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Trials before a first round, unless they have not come by so many tokens: fewer where what the
# draft node is known for promises more than a bad stream would lose until that is noticed.
_NUM_FIRST = 4
_SURE_GAIN, _LIKELY_GAIN = 1.3, 1.1
_MAX_FIRST_TOKENS = 24
# Tokens between two trials of a stream that stays plain: twice as many each time, for a draft node
# on the same machine slows the passes that it guesses beside.
_FIRST_INTERVAL_TOKENS = 32
_MAX_INTERVAL_TOKENS = 512
# Where there is little to gain: longer than most answers.
_RARE_INTERVAL_TOKENS = 256


@dataclass(slots=True)
class Trial:
    """A round on trial. guesses: after prefix_len tokens, once the draft node has answered."""

    round_id: int
    prefix_len: int
    num_asked: int
    guesses: tuple[int, ...] | None = None

    def num_right(self, token_ids: Sequence[int]) -> int | None:
        """Guesses that the text went on with; None while that cannot be told."""
        if self.guesses is None:
            return None
        for right, guess in enumerate(self.guesses):
            at = self.prefix_len + right
            if at >= len(token_ids):
                return None
            if token_ids[at] != guess:
                return right
        return len(self.guesses)


@dataclass(slots=True)
class Tries:
    """The trials of one stream. last: its length when the last one began. num_first: before its
    first round. interval: tokens from these to the next one.
    """

    trial: Trial | None = None
    num_done: int = 0
    last: int = 0
    num_first: int = _NUM_FIRST
    interval: int = _FIRST_INTERVAL_TOKENS

    def expect(self, gain: float, *, at_best: float, is_known: bool = False) -> None:
        """gain: seconds of a plain token to those of one with guesses, as the draft node's other
        streams suggest; at_best: if nearly all guesses were right. is_known: there were so many
        that plans can go by them, for and against.
        """
        self.num_first = _NUM_FIRST
        has_little = at_best < _LIKELY_GAIN
        self.interval = _RARE_INTERVAL_TOKENS if has_little else _FIRST_INTERVAL_TOKENS
        if is_known or gain >= _SURE_GAIN:
            self.num_first = 0
        elif has_little:
            # There is less to gain than trials cost where a draft node shares the target's cores.
            self.num_first = 1
        elif gain >= _LIKELY_GAIN:
            self.num_first = _NUM_FIRST // 2

    def are_first(self, num_output: int) -> bool:
        """Whether a stream with so many output tokens is to be tried before its first round."""
        return self.num_done < self.num_first and num_output < _MAX_FIRST_TOKENS

    def is_due(self, num_tokens: int, *, is_beside_others: bool = False) -> bool:
        """Whether another trial is to begin at this length.

        is_beside_others: others are tried now, so that it costs little to go along.
        """
        if self.trial is not None:
            return False
        if self.num_done < self.num_first:
            return True
        interval = self.interval << min(self.num_done - self.num_first, 10)
        interval = min(interval, _MAX_INTERVAL_TOKENS)
        return num_tokens >= self.last + (interval // 2 if is_beside_others else interval)
