"""Prompt lookup: guesses from the stream's own past, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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

    @property
    def token_ids(self) -> list[int]:
        """The text; not to be changed."""
        return self._token_ids

    def find(self, tail: Sequence[int]) -> tuple[int, int] | None:
        """Where the longest known run of at most 4 last tokens of `tail`, this text or another,
        ended here before: the index of the token after it, and how many tokens before that one are
        those of the tail, MAX_MATCH at most."""
        for length in range(min(_LONGEST, len(tail)), _SHORTEST - 1, -1):
            start = self._followers[length].get(tuple(tail[-length:]))
            if start is not None:
                return start, self._match(tail, start, length)
        return None

    def propose(self, gamma: int) -> Iterator[tuple[int, int]]:
        """Up to gamma tokens that followed there, and for each how many tokens before it are those
        before its model, MAX_MATCH at most."""
        found = self.find(self._token_ids)
        if found is None:
            return
        start, match = found
        for place in range(start, min(start + gamma, len(self._token_ids))):
            yield self._token_ids[place], min(MAX_MATCH, match + place - start)

    def _match(self, tail: Sequence[int], start: int, length: int) -> int:
        """How many of the tail's last tokens stand before `start` too; `length` of them do."""
        tokens = self._token_ids
        most = min(start, len(tail), MAX_MATCH)
        while length < most and tokens[start - 1 - length] == tail[-1 - length]:
            length += 1
        return length
