"""Prompt lookup: guesses from the stream's own past, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_LONGEST = 4
_SHORTEST = 2
# A match is followed back no further: longer ones are no surer.
MAX_MATCH = 32


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

    def propose(self, gamma: int) -> Iterator[tuple[int, int]]:
        """Up to gamma tokens that followed the longest known run of at most 4, and for each how
        many tokens before it are those before its model, MAX_MATCH at most."""
        tokens = self._token_ids
        for length in range(min(_LONGEST, len(tokens)), _SHORTEST - 1, -1):
            start = self._followers[length].get(tuple(tokens[-length:]))
            if start is not None:
                match = self._match(start, length)
                for place in range(start, min(start + gamma, len(tokens))):
                    yield tokens[place], min(MAX_MATCH, match + place - start)
                return

    def _match(self, start: int, length: int) -> int:
        """How many of the last tokens stand before `start` too; `length` of them are known to."""
        tokens = self._token_ids
        most = min(start, MAX_MATCH)
        while length < most and tokens[start - 1 - length] == tokens[-1 - length]:
            length += 1
        return length
