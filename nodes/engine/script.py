"""What a replay answers to the tokens it is fed, and which tokens no recorded run can feed it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nodes.engine.protocol import InvalidInputError, Logits, Span
from nodes.engine.recording import RecordedText, Recording

# So far above the others that no noise of sampling reaches it at any temperature.
_CERTAIN = 1e4
_LEAST_DOUBT = 1e-6


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one sequence in the cache. num_right: how many, from the first on, are the text's.

    text: None while the prompt is not complete.
    """

    token_ids: tuple[int, ...] = ()
    text: RecordedText | None = None
    num_right: int = 0

    def cut(self, length: int) -> Passage:
        text = self.text
        if text is not None and length < len(text.prompt_ids):
            text = None
        return Passage(self.token_ids[:length], text, min(self.num_right, length))


@dataclass(slots=True)
class Script:
    """A recording's target (draft None), or one of its drafts.

    The target says the tokens of the texts, and behind the last one that the text ends. A draft
    says what it guessed at a position, whatever it was fed since its first wrong guess: how
    sure it really would be there only decides how many more guesses are made that are in vain.
    """

    recording: Recording
    draft: int | None
    _texts: dict[tuple[int, ...], RecordedText] = field(init=False)
    _prompt_lengths: list[int] = field(init=False)
    _end_id: int = field(init=False)
    _no_end_id: int = field(init=False)

    def __post_init__(self) -> None:
        recording = self.recording
        self._texts = {text.prompt_ids: text for text in recording.texts}
        self._prompt_lengths = sorted({len(prompt) for prompt in self._texts})
        self._end_id = recording.eog_ids[0]
        # What a draft guesses behind the last token: nothing that a target would take.
        others = (i for i in range(recording.num_vocab) if i not in recording.eog_ids)
        self._no_end_id = next(others, self._end_id)

    def grown(self, passage: Passage, span: Span) -> Passage:
        """The passage with a span. Raises InvalidInputError for what is not of a recorded text."""
        token_ids = (*passage.token_ids, *span.token_ids)
        text = passage.text or self._text_of(token_ids)
        if text is None:
            if span.num_outputs or len(token_ids) >= self._prompt_lengths[-1]:
                raise InvalidInputError(f"sequence {span.seq_id} is none of {self._source()}")
            return Passage(token_ids, None, len(token_ids))
        # Of these the last one's logits are the first that are wanted, if any are.
        num_fed = len(token_ids) - max(0, span.num_outputs - 1)
        if span.num_outputs and num_fed < len(text.prompt_ids):
            raise InvalidInputError(f"sequence {span.seq_id}: logits inside of a recorded prompt")
        num_right = max(passage.num_right, len(text.prompt_ids))
        while num_right < len(token_ids) and token_ids[num_right] == self._next(text, num_right):
            num_right += 1
        if self.draft is None:
            # Only guesses, behind the last committed token, may be wrong.
            self._check(span, token_ids, num_right, num_fed)
        else:
            self._check(span, token_ids, self._num_own(text, token_ids, num_right), len(token_ids))
        return Passage(token_ids, text, num_right)

    def _text_of(self, token_ids: tuple[int, ...]) -> RecordedText | None:
        for length in self._prompt_lengths:
            if length > len(token_ids):
                break
            text = self._texts.get(token_ids[:length])
            if text is not None:
                return text
        return None

    def _num_own(self, text: RecordedText, token_ids: tuple[int, ...], num_right: int) -> int:
        """Leading tokens that are the text's, or guesses of this draft."""
        place = num_right
        while place < len(token_ids):
            if token_ids[place] not in (self._next(text, place), self._guess(text, place)[0]):
                break
            place += 1
        return place

    def _check(self, span: Span, token_ids: tuple[int, ...], num_good: int, wanted: int) -> None:
        if num_good >= wanted:
            return
        # Sampled, a draft guesses what it would not guess at temperature 0.
        hint = "" if self.draft is None else ", nor guessed at temperature 0"
        raise InvalidInputError(
            f"sequence {span.seq_id}: token {token_ids[num_good]} at position {num_good} is not "
            f"in {self._source()}{hint}"
        )

    def _source(self) -> str:
        recording = self.recording
        return f"the {len(recording.texts)} recorded texts of {recording.target.name}"

    def fill(self, row: Logits, passage: Passage, position: int) -> None:
        """Logits of a position into a row of zeros; the passage has all tokens before it."""
        text = passage.text
        assert text is not None
        if self.draft is not None:
            token_id, probability = self._guess(text, position)
            row[token_id] = logit_of(probability, len(row))
        elif position <= passage.num_right:
            row[self._next(text, position)] = _CERTAIN
        else:
            # Behind a wrong guess nothing is recorded. Who samples it nevertheless is told.
            row.fill(np.nan)

    def _next(self, text: RecordedText, position: int) -> int:
        place = position - len(text.prompt_ids)
        return text.output_ids[place] if place < len(text.output_ids) else self._end_id

    def _guess(self, text: RecordedText, position: int) -> tuple[int, float]:
        assert self.draft is not None
        guesses, place = text.guesses[self.draft], position - len(text.prompt_ids)
        if place >= len(guesses.token_ids):
            return self._no_end_id, 0.0
        return guesses.token_ids[place], guesses.probabilities[place]


def logit_of(probability: float, num_vocab: int) -> float:
    """x whose softmax beside num_vocab - 1 zeros is `probability`; positive, so the largest.

    What is no more likely than the zeros counts as a little more.
    """
    p = min(1.0 - _LEAST_DOUBT, max(1.01 / num_vocab, probability))
    return math.log(p * (num_vocab - 1) / (1.0 - p))
