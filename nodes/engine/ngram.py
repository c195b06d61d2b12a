"""Prompt lookup: guesses from the text of a stream, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST = 4
_SHORTEST = 2
# A match is not followed back further, because longer ones are not more often right.
_MAX_MATCH = 32


class NgramIndex:
    """The tokens of one stream, with an index of where each short run of them last ended."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        # For each length: run -> index of the token that followed its latest occurrence.
        self._followers: dict[int, dict[tuple[int, ...], int]] = {
            length: {} for length in range(_SHORTEST, _LONGEST + 1)
        }

    def __len__(self) -> int:
        return len(self._token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            end = len(self._token_ids)
            # Runs that end before this token enter the index now, so that none finds itself.
            for length, followers in self._followers.items():
                if end >= length:
                    followers[tuple(self._token_ids[end - length :])] = end
            self._token_ids.append(token_id)

    @property
    def token_ids(self) -> list[int]:
        """The text, which the caller must not change."""
        return self._token_ids

    def find(self, tail: Sequence[int]) -> tuple[int, int] | None:
        """Find the longest run of at most 4 last tokens of `tail` that this text contains.

        tail: The end of this text or of another one. Returns the index of the token after the run,
        and how many tokens before it equal the end of the tail, at most _MAX_MATCH; None if there
        is no such run.
        """
        for length in range(min(_LONGEST, len(tail)), _SHORTEST - 1, -1):
            start = self._followers[length].get(tuple(tail[-length:]))
            if start is not None:
                return start, self._match(tail, start, length)
        return None

    def _match(self, tail: Sequence[int], start: int, length: int) -> int:
        """Return how many of the tail's last tokens also precede `start`; at least `length` do."""
        tokens = self._token_ids
        most = min(start, len(tail), _MAX_MATCH)
        while length < most and tokens[start - 1 - length] == tail[-1 - length]:
            length += 1
        return length
