"""Tokens of one vocabulary in those of another that have the same text.

A draft model guesses for a target of another vocabulary: it reads the target's tokens as its own,
and what it expects is told in the target's. What cannot be told so is lost, which makes guesses
worse and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

# Own tokens that stand for one of the target at most. A token that would take more is rare in a
# language that the draft model knows; its last ones say most about what follows.
MOST_OWN: Final = 2


class Vocabulary(Protocol):
    """What is known of a model's tokens."""

    num_vocab: int

    def piece(self, token_id: int) -> bytes:
        """The bytes a token adds to the text; empty for control tokens."""

    def controls(self) -> Mapping[bytes, int]:
        """Control tokens by what templates call them."""

    def eog_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""

    def first_token_ids(self) -> tuple[int, ...]:
        """What stands before every text."""

    def inner_tokens(self, text: str) -> list[int]:
        """Tokens of a text that stands behind other text."""


class Dictionary:
    """Between a draft model's own vocabulary and that of its target. One thread uses it."""

    def __init__(self, own: Vocabulary, target: Vocabulary) -> None:
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
        self._controls = {
            token_id: own_id
            for text, token_id in target.controls().items()
            if (own_id := own.controls().get(text)) is not None
        }
        own_end = min(own.eog_token_ids(), default=None)
        if own_end is not None:
            for token_id in target.eog_token_ids():
                self._controls.setdefault(token_id, own_end)
        shared += [(t, o) for t, o in self._controls.items() if o in own.eog_token_ids()]
        # (n,) each: tokens that both have.
        self._target_ids = np.array([t for t, _ in shared], dtype=np.int64)
        self._own_ids = np.array([o for _, o in shared], dtype=np.int64)
        self._known: dict[int, tuple[int, ...]] = {}
        self._starting: dict[bytes, npt.NDArray[np.int64]] = {}

    @property
    def num_shared(self) -> int:
        """Tokens of the target that are tokens of the draft model, too."""
        return len(self._target_ids)

    def own_tokens(self, token_id: int) -> tuple[int, ...]:
        """At most MOST_OWN tokens of the draft model for one of the target; none where it has
        nothing like it."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._own_tokens(token_id)
        return found

    def _own_tokens(self, token_id: int) -> tuple[int, ...]:
        piece = self._target.piece(token_id)
        if not piece:
            control = self._controls.get(token_id)
            return () if control is None else (control,)
        if (same := self._own_of.get(piece)) is not None:
            return (same,)
        try:
            ids = self._own.inner_tokens(piece.decode())
        except UnicodeDecodeError:
            # Half of a character: its bytes, as far as there are tokens for them.
            ids = [self._own_of[b] for k in piece if (b := bytes([k])) in self._own_of]
        return tuple(ids[-MOST_OWN:])

    def translated(
        self, logits: npt.NDArray[np.float32], likeliest: int, then: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        """Logits over the target's vocabulary, of the same measure.

        logits: (own vocabulary,). likeliest: the draft model's likeliest token. then: (own
        vocabulary,) logits after it; None where they are not known. With these, where the target
        has one token for it and the beginning of what follows, that one gets their common
        probability.
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
        """Own tokens that begin with a text."""
        found = self._starting.get(text)
        if found is None:
            ids = [token_id for piece, token_id in self._own_of.items() if piece.startswith(text)]
            found = self._starting[text] = np.array(ids, dtype=np.int64)
        return found

    def _longest(self, text: bytes, least: int) -> int | None:
        """The longest token of the target, longer than `least`, with which a text begins."""
        for length in range(len(text), least, -1):
            if (found := self._target_of.get(text[:length])) is not None:
                return found
        return None


def _by_piece(vocabulary: Vocabulary) -> dict[bytes, list[int]]:
    """Tokens with a text, by it."""
    found: dict[bytes, list[int]] = {}
    for token_id in range(vocabulary.num_vocab):
        if piece := vocabulary.piece(token_id):
            found.setdefault(piece, []).append(token_id)
    return found
