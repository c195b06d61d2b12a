"""Translates tokens of one vocabulary to those of another with the same text.

It serves a draft model whose target has another vocabulary. The target's tokens are translated to
the draft model's own, and its logits to the target's tokens. Logits without a translation are lost,
which only makes guesses worse.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from typing import Final

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.vocab import LlamaTokenizer

# The most own tokens that stand for one of the target's. A token that needs more is rare in a
# language that the draft model knows. The last ones are kept, because they say most about what
# follows.
MOST_OWN: Final = 2


class Dictionary:
    """Translates between the vocabularies of a draft model and its target. Not thread-safe."""

    def __init__(self, own: LlamaTokenizer, target: LlamaTokenizer) -> None:
        self._own, self._target = own, target
        own_pieces = _by_piece(own)
        self._own_of = {piece: ids[0] for piece, ids in own_pieces.items()}
        self._target_of: dict[bytes, int] = {}
        shared: list[tuple[int, int]] = []
        for piece, ids in _by_piece(target).items():
            self._target_of[piece] = ids[0]
            known = self._own_of.get(piece)
            if known is not None:
                shared += [(token_id, known) for token_id in ids]
        # Each of these looks at the whole vocabulary.
        own_controls, own_ends = own.controls(), own.eog_token_ids()
        self._controls = {
            token_id: own_id
            for text, token_id in target.controls().items()
            if (own_id := own_controls.get(text)) is not None
        }
        own_end = min(own_ends, default=None)
        if own_end is not None:
            for token_id in target.eog_token_ids():
                self._controls.setdefault(token_id, own_end)
        shared += [(t, o) for t, o in self._controls.items() if o in own_ends]
        # The number of the target's tokens that the draft model has, too.
        self.num_shared = len(shared)
        # (n,) each: the tokens that both vocabularies have.
        self._target_ids = np.array([t for t, _ in shared], dtype=np.int64)
        self._own_ids = np.array([o for _, o in shared], dtype=np.int64)
        self.own_tokens = functools.cache(self._own_tokens)
        # In the order of their bytes, so that those with one beginning are adjacent.
        self._own_pieces = sorted(self._own_of)
        self._own_sorted = np.array([self._own_of[p] for p in self._own_pieces], dtype=np.int64)

    def _own_tokens(self, token_id: int) -> tuple[int, ...]:
        """Returns at most MOST_OWN own tokens for one of the target's; () if nothing matches."""
        piece = self._target.piece(token_id)
        if not piece:
            control = self._controls.get(token_id)
            return () if control is None else (control,)
        if (same := self._own_of.get(piece)) is not None:
            return (same,)
        try:
            ids = self._own.inner_tokens(piece.decode())
        except UnicodeDecodeError:
            # A part of a character: its single bytes, as far as there are tokens for them.
            ids = [self._own_of[b] for k in piece if (b := bytes([k])) in self._own_of]
        return tuple(ids[-MOST_OWN:])

    def translated(
        self, logits: npt.NDArray[np.float32], likeliest: int, then: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        """Returns (target vocabulary,) logits with the same normalisation.

        logits: (own vocabulary,). likeliest: The draft model's likeliest token. then: (own
        vocabulary,) logits after it; None if unknown. The target may have one token for `likeliest`
        and the beginning of what follows. If `then` is known, that token gets the probability of
        both together.
        """
        found = np.full(self._target.num_vocab, -np.inf, dtype=np.float32)
        found[self._target_ids] = logits[self._own_ids]
        piece, value = self._own.piece(likeliest), logits[likeliest]
        if not piece:
            return found
        single, both = self._target_of.get(piece), None
        if then is not None:
            second = int(then.argmax())
            both = self._longest(piece + self._own.piece(second), len(piece))
            if both is not None:
                more = self._target.piece(both)[len(piece) :]
                chances = np.exp(then - then[second])
                share = float(chances[self._starting_with(more)].sum() / chances.sum())
                found[both] = max(found[both], value + np.log(share))
                if single is not None:
                    found[single] = value + np.log1p(-min(share, 0.999))
        if single is None and both is None and (begins := self._longest(piece, 0)) is not None:
            found[begins] = max(found[begins], value)
        return found

    def _starting_with(self, text: bytes) -> npt.NDArray[np.int64]:
        """Returns the own tokens that begin with a text."""
        size = len(text)
        begin = bisect_left(self._own_pieces, text)
        end = bisect_right(self._own_pieces, text, lo=begin, key=lambda piece: piece[:size])
        return self._own_sorted[begin:end]

    def _longest(self, text: bytes, least: int) -> int | None:
        """Returns the target's longest token, of more than `least` bytes, that begins a text."""
        for length in range(len(text), least, -1):
            if (found := self._target_of.get(text[:length])) is not None:
                return found
        return None


def _by_piece(vocabulary: LlamaTokenizer) -> dict[bytes, list[int]]:
    """Returns the tokens by their bytes, without those that have none."""
    found: dict[bytes, list[int]] = {}
    for token_id in range(vocabulary.num_vocab):
        if piece := vocabulary.piece(token_id):
            found.setdefault(piece, []).append(token_id)
    return found
