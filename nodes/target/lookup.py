"""Prompt lookup: guesses from the stream's own text and from other texts of the same owner.

Much of an answer often repeats its prompt or the answer before: an edited file, a quoted page. The
lookup searches the texts for the longest run of the stream's last tokens, and guesses the tokens
that followed there. A run may occur many times, so the search also looks where the last guesses
came from: an answer that copies a text goes on there. It needs no message and no model.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nodes.worker.stream import StreamId, StreamSpec
from policies.acceptance import Calibration, DraftCalibration

# An indexed token takes some 350 bytes, so all take 23 MB. Of a prompt that would take more than a
# quarter of them only the end is indexed.
_MAX_TOKENS: Final = 1 << 16
# Ended texts of an owner that are searched besides the open ones. Each adds up to three look-ups a
# stream and pass.
_MAX_ENDED: Final = 8
# Bins of the number of matching tokens before a guess: the first number above the bin, and the
# share of right guesses in it, greedy and sampled, from the answers that the default draft was
# trained on. The bins are refitted for this target.
_BINS: Final = (
    (2.5, 0.56, 0.41),
    (3.5, 0.67, 0.49),
    (4.5, 0.74, 0.65),
    (6.5, 0.77, 0.70),
    (9.5, 0.84, 0.80),
    (13.5, 0.90, 0.85),
    (20.5, 0.93, 0.88),
    (math.inf, 0.97, 0.93),
)

# Most and fewest tokens of a run that is looked for.
_LONGEST: Final = 4
_SHORTEST: Final = 2
# A match is not followed back further, because longer ones are not more often right.
_MAX_MATCH: Final = 32


class NgramIndex:
    """The tokens of one stream, with an index of where each short run of them last ended.

    token_ids: the text, which only extend() may change.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        # For each length: run -> index of the token that followed its latest occurrence.
        self._followers: dict[int, dict[tuple[int, ...], int]] = {
            length: {} for length in range(_SHORTEST, _LONGEST + 1)
        }

    def __len__(self) -> int:
        return len(self.token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            end = len(self.token_ids)
            # Runs that end before this token enter the index now, so that none finds itself.
            for length, followers in self._followers.items():
                if end >= length:
                    followers[tuple(self.token_ids[end - length :])] = end
            self.token_ids.append(token_id)

    def find(self, tail: Sequence[int], place: int = 0) -> tuple[int, int]:
        """Find where this text may go on like `tail`, the end of this text or of another one.

        Looks at `place`, and where the longest run of at most 4 last tokens of the tail occurred
        last. Returns the index of the token to come, and how many tokens before it equal the end of
        the tail, at most _MAX_MATCH; the number is 0 if there is no such run.
        """
        match = self._match(tail, place, 0) if place < len(self.token_ids) else 0
        found = (place, match) if match >= _SHORTEST else (0, 0)
        for length in range(min(_LONGEST, len(tail)), _SHORTEST - 1, -1):
            start = self._followers[length].get(tuple(tail[-length:]))
            if start is not None:
                match = self._match(tail, start, length)
                return (start, match) if match > found[1] else found
        return found

    def _match(self, tail: Sequence[int], start: int, length: int) -> int:
        """Return how many of the tail's last tokens also precede `start`; at least `length` do."""
        tokens = self.token_ids
        most = min(start, len(tail), _MAX_MATCH)
        while length < most and tokens[start - 1 - length] == tail[-1 - length]:
            length += 1
        return length


def lookup_calibration() -> DraftCalibration:
    """Returns the map from the number of matching tokens to the chance of a guess."""
    above, greedy, sampled = zip(*_BINS, strict=True)
    return DraftCalibration(Calibration(above[:-1], greedy), Calibration(above[:-1], sampled))


@dataclass(frozen=True, slots=True)
class Proposal:
    """Guesses for the next tokens.

    match: number of matching tokens before the first guess; each further guess has one more.
    chances: (g,) chance of each to be right if all before it are.
    """

    token_ids: list[int] = field(default_factory=list)
    match: int = 0
    chances: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Text:
    owner: str
    calibration: Calibration
    index: NgramIndex = field(default_factory=NgramIndex)
    # The last proposal, to be compared with the tokens that follow.
    proposed: Proposal = field(default_factory=Proposal)
    # The length of the text when it was made.
    proposed_at: int = -1
    # The text in which the last proposal was found, and its token that comes next.
    source: _Text | None = None
    place: int = 0


class Lookup:
    """The texts of one target by owner. Guesses come only from texts of the stream's owner."""

    def __init__(self) -> None:
        self._calibration = lookup_calibration()
        self._texts: dict[StreamId, _Text] = {}
        # Ended texts of all owners, oldest first.
        self._ended: dict[_Text, None] = {}
        # By owner: open and ended texts, newest first.
        self._by_owner: dict[str, deque[_Text]] = {}
        self._num_tokens = 0

    def open(self, spec: StreamSpec) -> None:
        """Index a stream's text if there is room for it."""
        token_ids = spec.token_ids[-_MAX_TOKENS // 4 :]
        while self._num_tokens + len(token_ids) > _MAX_TOKENS and self._ended:
            self._drop(next(iter(self._ended)))
        if self._num_tokens + len(token_ids) > _MAX_TOKENS:
            return
        text = _Text(spec.owner, self._calibration.of(spec.sampling.temperature))
        text.index.extend(token_ids)
        self._num_tokens += len(token_ids)
        self._texts[spec.stream_id] = text
        self._by_owner.setdefault(spec.owner, deque()).appendleft(text)

    def committed(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        """Add committed tokens to a stream's text, and learn from the proposal made for them."""
        text = self._texts.get(stream_id)
        if text is None:
            return
        if text.proposed_at == len(text.index):
            known = zip(text.proposed.token_ids, token_ids, strict=False)
            for match, (guess, token_id) in enumerate(known, text.proposed.match):
                text.calibration.observe(match, accepted=guess == token_id)
                if guess != token_id:
                    break
        text.index.extend(token_ids)
        text.place += len(token_ids)
        self._num_tokens += len(token_ids)

    def ended(self, stream_id: StreamId) -> None:
        """Note that a stream has ended. Its text is kept for other streams of its owner."""
        text = self._texts.pop(stream_id, None)
        if text is None:
            return
        # Else the last of a conversation's texts would keep all before it in memory, each by the
        # next one, though they are dropped here.
        text.source = None
        self._ended[text] = None
        ended = [other for other in self._by_owner[text.owner] if other in self._ended]
        for other in ended[_MAX_ENDED:]:
            self._drop(other)

    def clear(self) -> None:
        """Drop all texts, because another coordinator may give the names of owners anew."""
        self._texts.clear()
        self._ended.clear()
        self._by_owner.clear()
        self._num_tokens = 0

    def _drop(self, text: _Text) -> None:
        del self._ended[text]
        self._num_tokens -= len(text.index)
        of_owner = self._by_owner[text.owner]
        of_owner.remove(text)
        if not of_owner:
            del self._by_owner[text.owner]

    def propose(self, stream_id: StreamId, most: int) -> Proposal:
        """Returns up to `most` tokens that followed the longest earlier match of the text's end."""
        text = self._texts.get(stream_id)
        if text is None:
            return Proposal()
        if text.proposed_at == len(text.index) and len(text.proposed.token_ids) >= most:
            return text.proposed
        tail, source, start, match = text.index.token_ids, text, 0, 0
        for other in (text, *(each for each in self._by_owner[text.owner] if each is not text)):
            place = text.place if other is text.source else 0
            found, longest = other.index.find(tail, place)
            if longest > match:
                source, start, match = other, found, longest
        token_ids = source.index.token_ids[start : start + most] if match else []
        if match:
            text.source, text.place = source, start
        chances = [text.calibration.chance(match + index) for index in range(len(token_ids))]
        text.proposed, text.proposed_at = Proposal(token_ids, match, chances), len(text.index)
        return text.proposed
