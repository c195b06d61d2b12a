"""Prompt lookup: guesses from the stream's own past, without a model."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 4
_SHORTEST = 2


class NgramIndex:
    """Tokens of one stream, and where each short run of them last ended."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        # For each length, run -> index of the token that followed its latest occurrence.
        self._followers: dict[int, dict[tuple[int, ...], int]] = {
            length: {} for length in range(_SHORTEST, _LONGEST + 1)
        }

    def __len__(self) -> int:
        return len(self._token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            end = len(self._token_ids)
            # The runs that end here get their follower now, so a run never finds itself.
            for length, followers in self._followers.items():
                if end >= length:
                    followers[tuple(self._token_ids[end - length :])] = end
            self._token_ids.append(token_id)

    def propose(self, gamma: int) -> list[int]:
        """Up to gamma tokens that followed the longest known run; [] where none is known."""
        tokens = self._token_ids
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            if len(tokens) < length:
                continue
            start = self._followers[length].get(tuple(tokens[-length:]))
            if start is not None:
                return tokens[start : start + gamma]
        return []
