"""Guesses from texts that a target has had before: those of the stream, and its owner's others.

Much of an answer often stands in its prompt, or in the answer before: an edited file, a quoted
page. A run of the last tokens that stood there before is looked up, and what followed it then is
guessed to follow again. Nothing travels for it, and no model runs.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from nodes.engine.ngram import NgramIndex
from nodes.worker.stream import StreamId, StreamSpec
from policies.confidence import Calibration, DraftCalibration

# An indexed token takes some 350 bytes: 23 MB in all. Of a longer prompt the end is indexed.
_MAX_TOKENS: Final = 1 << 16
_MAX_PROMPT_TOKENS: Final = 1 << 14
# Ended texts of an owner that are looked into besides those under way: each is up to three more
# look-ups a stream and pass.
_MAX_ENDED: Final = 8
# Tokens that match before a guess, in bins, and the share of guesses that were right there: of the
# answers that the default draft was trained on. Learnt further for whatever target this is.
_EDGES: Final = (2.5, 3.5, 4.5, 6.5, 9.5, 13.5, 20.5)
_GREEDY: Final = (0.56, 0.67, 0.74, 0.77, 0.84, 0.90, 0.93, 0.97)
_SAMPLED: Final = (0.41, 0.49, 0.65, 0.70, 0.80, 0.85, 0.88, 0.93)


def lookup_calibration() -> DraftCalibration:
    """How likely guesses are by the tokens that match before them."""
    return DraftCalibration(Calibration(_EDGES, _GREEDY), Calibration(_EDGES, _SAMPLED))


@dataclass(frozen=True, slots=True)
class Proposal:
    """Guesses for the next tokens. matches: (g,) tokens before each that stood before it there,
    too. chances: (g,) of each to be right if all before it are."""

    token_ids: list[int] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Text:
    owner: str
    calibration: Calibration
    index: NgramIndex = field(default_factory=NgramIndex)
    # What was proposed for the text as long as it was then, to be compared with what comes.
    proposed: Proposal = field(default_factory=Proposal)
    proposed_at: int = -1


class Lookup:
    """Texts of one target, by owner: what one owner's texts say is guessed for that owner alone."""

    def __init__(self) -> None:
        self._calibration = lookup_calibration()
        self._texts: dict[StreamId, _Text] = {}
        # Oldest first, of all owners; and those of each.
        self._ended: OrderedDict[_Text, None] = OrderedDict()
        self._by_owner: dict[str, deque[_Text]] = {}
        self._num_tokens = 0

    def open(self, spec: StreamSpec) -> None:
        """Index a stream's text, where there is room for it."""
        token_ids = spec.token_ids[-_MAX_PROMPT_TOKENS:]
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
        """The stream's text has more tokens: what was proposed for them was right or wrong."""
        text = self._texts.get(stream_id)
        if text is None:
            return
        if text.proposed_at == len(text.index):
            known = zip(text.proposed.token_ids, text.proposed.matches, token_ids, strict=False)
            for guess, match, token_id in known:
                text.calibration.observe(match, accepted=guess == token_id)
                if guess != token_id:
                    break
        text.index.extend(token_ids)
        self._num_tokens += len(token_ids)

    def ended(self, stream_id: StreamId) -> None:
        """The stream is gone; its owner's others may repeat what it said."""
        text = self._texts.pop(stream_id, None)
        if text is None:
            return
        self._ended[text] = None
        ended = [other for other in self._by_owner[text.owner] if other in self._ended]
        for other in ended[_MAX_ENDED:]:
            self._drop(other)

    def clear(self) -> None:
        """Owners are names that a coordinator gave: another one gives them anew."""
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
        """What followed where the longest run of the text's last tokens stood before."""
        text = self._texts.get(stream_id)
        if text is None:
            return Proposal()
        if text.proposed_at == len(text.index) and len(text.proposed.token_ids) >= most:
            return text.proposed
        tail = text.index.token_ids
        best, place, where = text.index.find(tail), 0, text
        length = best[1] if best is not None else 0
        for other in self._by_owner[text.owner]:
            found = other.index.find(tail) if other is not text else None
            if found is not None and found[1] > length:
                best, length, where = found, found[1], other
        proposal = Proposal()
        if best is not None:
            place, match = best
            for token_id in where.index.token_ids[place : place + most]:
                proposal.token_ids.append(token_id)
                proposal.matches.append(match)
                proposal.chances.append(text.calibration.chance(match))
                match += 1
        text.proposed, text.proposed_at = proposal, len(text.index)
        return proposal
