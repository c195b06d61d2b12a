"""Prompt lookup: guesses from the stream's own text and from other texts of the same owner.

Much of an answer often repeats its prompt or the answer before: an edited file, a quoted page. The
lookup searches the texts for the longest run of the stream's last tokens, and guesses the tokens
that followed there. A run may occur many times, so the search looks at its latest place in the
stream's text, at its latest place in any text of the owner, and where the last guesses came from:
an answer that copies a text goes on there. So the cost of a guess does not depend on how many texts
there are. It needs no message and no model.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias

from airdraft.nodes.target.proposals import Proposal, Source
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.acceptance import Calibration, DraftCalibration

# An indexed token takes at most some 600 bytes, so all take 40 MB. Of a prompt that would take more
# than a quarter of them only the end is indexed.
_MAX_TOKENS: Final = 1 << 16
# Ended texts of an owner that are searched besides the open ones, so that an owner of many texts
# does not soon have those of all others dropped.
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

# The hash of a run of tokens. Runs of the same hash do no harm, because match() compares tokens.
Run: TypeAlias = int
# Tokens of a run that is looked for; a longer one is preferred.
_LENGTHS: Final = (4, 3, 2)
# A match is not followed back further, because longer ones are not more often right.
_MAX_MATCH: Final = 32


class NgramIndex:
    """The tokens of one stream, with an index of where each short run of them last ended.

    token_ids: the text, which only extend() may change. followers: for each run the index of the
    token that followed its latest occurrence.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.followers: dict[Run, int] = {}

    def __len__(self) -> int:
        return len(self.token_ids)

    def extend(self, token_ids: Iterable[int]) -> list[Run]:
        """Add tokens. Returns the runs that they follow.

        The last run of the text is not in the index before it is followed, so none finds itself.
        """
        first = len(self.token_ids)
        self.token_ids += token_ids
        entered: list[Run] = []
        for length in _LENGTHS:
            for end in range(max(first, length), len(self.token_ids)):
                run = hash(tuple(self.token_ids[end - length : end]))
                self.followers[run] = end
                entered.append(run)
        return entered

    def after(self, runs: Iterable[Run]) -> int:
        """Returns where the first of these runs that is found here goes on; 0 if none is."""
        return next((self.followers[run] for run in runs if run in self.followers), 0)

    def match(self, tail: Sequence[int], start: int) -> int:
        """Returns how many of the tail's last tokens precede `start` here, at most _MAX_MATCH."""
        tokens, length = self.token_ids, 0
        most = min(start, len(tail), _MAX_MATCH)
        while length < most and tokens[start - 1 - length] == tail[-1 - length]:
            length += 1
        return length


@dataclass(frozen=True, slots=True)
class Match(Proposal):
    """Guesses that followed an earlier match.

    length: number of matching tokens before the first guess; each further guess has one more.
    """

    length: int = 0


@dataclass(slots=True, eq=False)
class _Text:
    owner: str
    calibration: Calibration
    index: NgramIndex = field(default_factory=NgramIndex)
    # The last proposal, to be compared with the tokens that follow.
    proposed: Match = field(default_factory=Match)
    # The text in which the last proposal was found, and its token that comes next.
    source: NgramIndex | None = None
    place: int = 0


class Lookup:
    """The texts of one target by owner. Guesses come only from texts of the stream's owner."""

    source: ClassVar[Source] = "lookup"

    def __init__(self) -> None:
        above, greedy, sampled = zip(*_BINS, strict=True)
        calibrations = (Calibration(above[:-1], rates) for rates in (greedy, sampled))
        # From the number of matching tokens to the chance of a guess.
        self._calibration = DraftCalibration(*calibrations)
        self._texts: dict[StreamId, _Text] = {}
        # Ended texts of all owners, oldest first.
        self._ended: dict[_Text, None] = {}
        # By owner: for each run the text in which it occurred last.
        self._latest: dict[str, dict[Run, NgramIndex]] = {}
        self._num_tokens = 0

    def open(self, spec: StreamSpec) -> None:
        """Index a stream's text if its request looks up and there is room for it."""
        if not spec.looks_up:
            return
        token_ids = spec.token_ids[-_MAX_TOKENS // 4 :]
        while self._num_tokens + len(token_ids) > _MAX_TOKENS and self._ended:
            self._drop(next(iter(self._ended)))
        if self._num_tokens + len(token_ids) > _MAX_TOKENS:
            return
        text = _Text(spec.owner, self._calibration.of(spec.sampling.temperature))
        self._extend(text, token_ids)
        self._texts[spec.stream_id] = text

    def committed(self, stream_id: StreamId, token_ids: Sequence[int]) -> None:
        """Add committed tokens to a stream's text, and learn from the proposal made for them."""
        text = self._texts.get(stream_id)
        if text is None:
            return
        known = zip(text.proposed.token_ids, token_ids, strict=False)
        for match, (guess, token_id) in enumerate(known, text.proposed.length):
            text.calibration.observe(match, accepted=guess == token_id)
            if guess != token_id:
                break
        text.proposed = Match()
        self._extend(text, token_ids)
        text.place += len(token_ids)

    def ended(self, stream_id: StreamId) -> None:
        """Note that a stream has ended. Its text is kept for other streams of its owner."""
        text = self._texts.pop(stream_id, None)
        if text is None:
            return
        # Else the last of a conversation's texts would keep all before it in memory, each by the
        # next one, though they are dropped here.
        text.source = None
        self._ended[text] = None
        ended = [other for other in self._ended if other.owner == text.owner]
        for other in ended[:-_MAX_ENDED]:
            self._drop(other)

    def clear(self) -> None:
        """Drop all texts, because another coordinator may give the names of owners anew."""
        self._texts.clear()
        self._ended.clear()
        self._latest.clear()
        self._num_tokens = 0

    def _extend(self, text: _Text, token_ids: Sequence[int]) -> None:
        runs = text.index.extend(token_ids)
        self._latest.setdefault(text.owner, {}).update(dict.fromkeys(runs, text.index))
        self._num_tokens += len(token_ids)

    def _drop(self, text: _Text) -> None:
        del self._ended[text]
        self._num_tokens -= len(text.index)
        latest = self._latest.get(text.owner, {})
        for run in text.index.followers:
            if latest.get(run) is text.index:
                del latest[run]
        if not latest:
            self._latest.pop(text.owner, None)

    def propose(self, stream_id: StreamId, most: int) -> Match:
        """Returns up to `most` tokens that followed the longest earlier match of the text's end."""
        text = self._texts.get(stream_id)
        if text is None:
            return Match()
        tail, latest = text.index.token_ids, self._latest.get(text.owner, {})
        runs = [hash(tuple(tail[-length:])) for length in _LENGTHS]
        other = next((latest[run] for run in runs if run in latest), text.index)
        places = [(index, index.after(runs)) for index in (text.index, other)]
        if text.source is not None and text.place < len(text.source):
            places.insert(0, (text.source, text.place))
        found = [(index.match(tail, place), index, place) for index, place in places]
        match, source, start = max(found, key=operator.itemgetter(0))
        token_ids: list[int] = []
        if match >= min(_LENGTHS):
            text.source, text.place = source, start
            token_ids = source.token_ids[start : start + most]
        chances = [text.calibration.chance(match + index) for index in range(len(token_ids))]
        text.proposed = Match(token_ids, chances, match)
        return text.proposed
