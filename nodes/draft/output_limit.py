"""Finds how much of its vocabulary a draft node has to guess from. Pure.

The output layer is about a quarter of what a small model with a large vocabulary reads in a step.
Most vocabularies are sorted: tokens with high ids are rare. So the logits of these are left out as
long as hardly any committed token was one of them. They can still be committed, just not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from airdraft.nodes.engine.load import Opened, OpenedModel
from airdraft.nodes.engine.protocol import Sequences

_NUM_PARTS: Final = 16
# The share of the committed tokens that may be left out. With the real pair and code, at one and at
# four streams, leaving out 2 % of them (57 % of the vocabulary) gave 1.11 times the tokens a second
# of a whole vocabulary on average of two runs of 8 prompts, and 5 % (78 %) 0.98 times.
_LEFT_OUT: Final = 0.02
# Committed tokens that count. So a text of another language has the tokens that it needs after some
# fifty of its own.
_MEMORY: Final = 2000.0
# Tokens that each part counts as having had at first: the first 100 leave out no more than half.
_PRIOR: Final = 0.25


class OutputLimit:
    """Counts committed tokens by parts of the vocabulary, and sets how many tokens are guessed."""

    def __init__(self, num_vocab: int, set_limit: Callable[[int], None]) -> None:
        """set_limit: from its call on, only tokens with ids below its argument are guessed."""
        self._part_size = -(-num_vocab // _NUM_PARTS)
        self._counts = np.full(_NUM_PARTS, _PRIOR)
        self._num_parts = _NUM_PARTS
        self._set_limit = set_limit

    def committed(self, token_ids: Sequence[int]) -> None:
        """Count tokens of any stream."""
        parts = np.asarray(token_ids) // self._part_size
        self._counts *= (1.0 - 1.0 / _MEMORY) ** len(parts)
        self._counts += np.bincount(parts, minlength=_NUM_PARTS)
        # above[k]: the tokens of part k and all later ones.
        above = np.cumsum(self._counts[::-1])[::-1]
        num_parts = int(np.count_nonzero(above > _LEFT_OUT * above[0]))
        if num_parts != self._num_parts:
            self._num_parts = num_parts
            self._set_limit(num_parts * self._part_size)


def output_limit(opened: Opened, model: Sequences) -> OutputLimit | None:
    """Returns the limit for an opened draft; None if its guesses are translated into other tokens,
    because it has token ids of its own, or if it is not the model of a file."""
    if not isinstance(opened, OpenedModel) or model is not opened.model:
        return None
    return OutputLimit(model.info.num_vocab, opened.model.limit_output)
