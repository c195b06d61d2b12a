"""Texts of ended streams that stay in a draft's cache, for later streams that begin with them.

The next request of a conversation has all that was said before in its prompt. Its owner's draft has
read that already. The cells are needed for nothing else: whoever wants them gets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nodes.engine.protocol import Sequences, common_prefix
from nodes.worker.stream import PROMPT_PIECE_TOKENS

# The share of the cells that these texts may take. Each step reads past them.
_MOST_CELLS = 0.25


@dataclass(frozen=True, slots=True)
class _Text:
    owner: str
    token_ids: list[int]
    seq_id: int


class Ended:
    """Texts by age, each in a sequence of its own."""

    def __init__(self, model: Sequences) -> None:
        self._model = model
        self._texts: list[_Text] = []

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, owner: str, token_ids: list[int], seq_id: int) -> list[int]:
        """Keep a sequence with these tokens; returns the sequences that are free instead.

        What is shorter than a piece of a prompt is read as fast as it is found.
        """
        if len(token_ids) < PROMPT_PIECE_TOKENS:
            self._model.truncate(seq_id, 0)
            return [seq_id]
        self._texts.append(_Text(owner, token_ids, seq_id))
        most, freed = _MOST_CELLS * self._model.info.num_cells, list[int]()
        while sum(len(text.token_ids) for text in self._texts) > most:
            freed.append(self.drop())
        return freed

    def take(self, owner: str, token_ids: Sequence[int]) -> tuple[int, int] | None:
        """Returns a sequence of this owner that begins with most of these tokens, and how many of
        them it has, without the last one; None if there is none. The sequence has no others."""
        best, found, wanted = 0, None, list(token_ids[:-1])
        for text in self._texts:
            shared = common_prefix(text.token_ids, wanted) if text.owner == owner else 0
            if shared >= max(PROMPT_PIECE_TOKENS, best + 1):
                best, found = shared, text
        if found is None:
            return None
        self._texts.remove(found)
        self._model.truncate(found.seq_id, best)
        return found.seq_id, best

    def drop(self) -> int:
        """Drop the oldest text and return its sequence, which is free."""
        text = self._texts.pop(0)
        self._model.truncate(text.seq_id, 0)
        return text.seq_id
