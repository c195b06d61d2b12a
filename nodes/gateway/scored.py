"""Tokens with their scores, few or many. Pure."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, overload

from airdraft.nodes.messages import Score, TokenScores

_KINDS: Final = ("plain", "accepted", "corrected", "bonus", "prompt")
# Whether it is the first, its kind, and the number of scores.
_HEAD: Final = struct.Struct("=?BB")


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text. is_first: it is the first token of a prompt and so has no probability.

    kind: its origin: an `accepted` guess; the target, after a wrong guess (`corrected`) or after
    only right ones (`bonus`); a `plain` step; or the `prompt`.
    """

    scores: TokenScores
    is_first: bool = False
    kind: str = "plain"


class ScoredTokens(Sequence[ScoredToken]):
    """Tokens that are held for long, packed: a score takes 25 bytes instead of 250, and none of the
    garbage collector's time."""

    def __init__(self, tokens: Iterable[ScoredToken] = ()) -> None:
        self._packed = [_packed(token) for token in tokens]

    def extend(self, tokens: Iterable[ScoredToken]) -> None:
        if isinstance(tokens, ScoredTokens):
            self._packed += tokens._packed
        else:
            self._packed += map(_packed, tokens)

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, place: int) -> ScoredToken: ...
    @overload
    def __getitem__(self, place: slice) -> "ScoredTokens": ...
    def __getitem__(self, place: int | slice) -> "ScoredToken | ScoredTokens":
        if isinstance(place, int):
            return _unpacked(self._packed[place])
        found = ScoredTokens()
        found._packed = self._packed[place]
        return found

    def __iter__(self) -> Iterator[ScoredToken]:
        return map(_unpacked, self._packed)


def _packed(token: ScoredToken) -> bytes:
    scores = (token.scores.chosen, *token.scores.top)
    pieces = [score.piece for score in scores]
    return b"".join(
        (
            _HEAD.pack(token.is_first, _KINDS.index(token.kind), len(scores)),
            _numbers(len(scores)).pack(
                *(score.token_id for score in scores),
                *(score.logprob for score in scores),
                *map(len, pieces),
            ),
            *pieces,
        )
    )


def _unpacked(packed: bytes) -> ScoredToken:
    is_first, kind, num = _HEAD.unpack_from(packed)
    numbers = _numbers(num)
    found = numbers.unpack_from(packed, _HEAD.size)
    scores, start = [], _HEAD.size + numbers.size
    for token_id, logprob, size in zip(
        found[:num], found[num : 2 * num], found[2 * num :], strict=True
    ):
        scores.append(Score(token_id, logprob, packed[start : start + size]))
        start += size
    return ScoredToken(TokenScores(scores[0], tuple(scores[1:])), is_first, _KINDS[kind])


@cache
def _numbers(num: int) -> struct.Struct:
    """Of so many scores: their token ids, log-probabilities and sizes of pieces."""
    return struct.Struct(f"={num}I{num}d{num}I")
