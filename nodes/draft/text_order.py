"""Chooses the texts that a draft reads next, and keeps and copies what it has read already.

Texts of ended streams stay in the cache for later streams that begin with them: the next request of
a conversation has all that was said before in its prompt. Their cells are needed for nothing else:
whoever wants them gets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.nodes.draft.followed import Followed
from airdraft.nodes.engine.protocol import Sequences, common_prefix
from airdraft.nodes.worker.stream import PROMPT_PIECE_TOKENS, most_in_common

# The share of the cells that these texts may take, which is one text of the model's longest at
# most. Each step reads past them.
_MOST_CELLS = 0.25


class TextOrder:
    """Takes turns among the waiting texts."""

    def __init__(self, model: Sequences) -> None:
        self._model = model
        self._num_reads = 0

    def choose(self, streams: Sequence[Followed]) -> list[Followed]:
        """Returns the streams that read in the next pass, in order; streams: all of them by age.

        The oldest and the one with the fewest tokens left go first in turns. So a short text does
        not wait for a long one, and short ones take at most half of the passes. Tokens that another
        stream of the same owner has read are copied. A stream waits while an earlier one is about
        to read the same tokens.
        """
        readers = [s for s in streams if s.is_behind and self._copy_known(s, streams)]
        # After a copy nothing may be missing.
        behind = [stream for stream in readers if stream.is_behind]
        self._num_reads += bool(behind)
        order = sorted(behind, key=lambda stream: stream.num_missing)
        if self._num_reads % 2 and len(behind) > 1:
            order.remove(behind[0])
            order.insert(0, behind[0])
        return order

    def _copy_known(self, stream: Followed, streams: Sequence[Followed]) -> bool:
        """Copy the cached part of an unread text; returns False if more can be copied soon."""
        if stream.cached:
            return True
        num_wanted = len(stream.token_ids) - 1
        now, soon = most_in_common(
            stream,
            num_wanted,
            streams,
            lambda each: each.cached,
            lambda each: self._model.shortest(each.seq_id),
        )
        (best, donor), (promised, _) = now, soon
        if promised > best:
            return False
        if best >= PROMPT_PIECE_TOKENS:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
            stream.chain.cached = best
        return True


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
        info, freed = self._model.info, list[int]()
        most = min(_MOST_CELLS * info.num_cells, info.max_length)
        while sum(len(text.token_ids) for text in self._texts) > most:
            freed.append(self.drop())
        return freed

    def take(self, owner: str, token_ids: Sequence[int]) -> tuple[int, int] | None:
        """Returns a sequence of this owner that begins with most of these tokens, and how many of
        them it has, without the last one; None if there is none. The sequence has no others."""
        best, found, wanted = 0, None, list(token_ids[:-1])
        for text in self._texts:
            shared = common_prefix(text.token_ids, wanted) if text.owner == owner else 0
            if shared >= max(PROMPT_PIECE_TOKENS, best + 1, self._model.shortest(text.seq_id)):
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
