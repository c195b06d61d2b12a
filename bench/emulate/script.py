"""Computes a replay's logits for the tokens it reads, and refuses tokens that no recording has."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from bench.emulate.recording import RecordedText, Recording
from nodes.engine.protocol import InvalidInputError, Logits, Span

# This logit is so far above the others that no sampling noise matters at any temperature.
_CERTAIN = 1e4
_LEAST_DOUBT = 1e-6


class Script:
    """The answers of a recording's target (if draft is None) or of one of its drafts.

    The target gives the tokens of the texts, and an end token after the last one. A draft gives its
    recorded guess for a position, even after a wrong guess. Its true confidence there would only
    change the number of guesses that are rejected anyway.
    """

    def __init__(self, recording: Recording, draft: int | None) -> None:
        self.recording = recording
        self.draft = draft
        self._shortest = min(len(text.prompt_ids) for text in recording.texts)
        self._longest = max(len(text.prompt_ids) for text in recording.texts)
        self._texts = defaultdict[tuple[int, ...], list[RecordedText]](list)
        for text in recording.texts:
            self._texts[text.prompt_ids[: self._shortest]].append(text)
        self._end_id = recording.eog_ids[0]
        # A draft's guess after the last token; the target rejects it.
        others = (i for i in range(recording.num_vocab) if i not in recording.eog_ids)
        self._no_end_id = next(others, self._end_id)

    def read(self, token_ids: tuple[int, ...], span: Span) -> tuple[RecordedText | None, int]:
        """Return the text of a sequence that ends with a span, and how many of its tokens from the
        beginning are the text's; None while the prompt is not complete.

        Raises InvalidInputError if the span's tokens are not those of a recorded text.
        """
        text = self._text_of(token_ids)
        if text is None:
            if span.num_outputs or len(token_ids) >= self._longest:
                raise InvalidInputError(f"sequence {span.seq_id} is not in {self._source()}")
            return None, len(token_ids)
        # The tokens up to the one that has the first output row, or all if there is none.
        num_fed = len(token_ids) - max(0, span.num_outputs - 1)
        if span.num_outputs and num_fed < len(text.prompt_ids):
            raise InvalidInputError(f"sequence {span.seq_id}: a recorded prompt has no logits")
        num_right = len(text.prompt_ids)
        begins = max(span.start, num_right)
        # Nearly always all tokens before the span are right, and need not be looked at one by one.
        if token_ids[:begins] == (text.prompt_ids + text.output_ids)[:begins]:
            num_right = begins
        while num_right < len(token_ids) and token_ids[num_right] == self._next(text, num_right):
            num_right += 1
        if self.draft is None:
            # Only guesses, which come after the last committed token, may be wrong.
            self._check(span, token_ids, num_right, num_fed)
        else:
            self._check(span, token_ids, self._num_own(text, token_ids, num_right), len(token_ids))
        return text, num_right

    def _text_of(self, token_ids: tuple[int, ...]) -> RecordedText | None:
        for text in self._texts.get(token_ids[: self._shortest], ()):
            if token_ids[: len(text.prompt_ids)] == text.prompt_ids:
                return text
        return None

    def _num_own(self, text: RecordedText, token_ids: tuple[int, ...], num_right: int) -> int:
        """Return the number of leading tokens that are the text's or guesses of this draft."""
        place = num_right
        while place < len(token_ids):
            if token_ids[place] not in (self._next(text, place), self._guess(text, place)[0]):
                break
            place += 1
        return place

    def _check(self, span: Span, token_ids: tuple[int, ...], num_good: int, wanted: int) -> None:
        if num_good >= wanted:
            return
        # At other temperatures a draft makes guesses that are not in the recording.
        hint = "" if self.draft is None else ", nor guessed at temperature 0"
        raise InvalidInputError(
            f"sequence {span.seq_id}: token {token_ids[num_good]} at position {num_good} is not "
            f"in {self._source()}{hint}"
        )

    def _source(self) -> str:
        recording = self.recording
        return f"the {len(recording.texts)} recorded texts of {recording.target.name}"

    def fill(self, row: Logits, text: RecordedText, num_right: int, position: int) -> None:
        """Write the logits of a position into a row of zeros. num_right: as of read()."""
        if self.draft is not None:
            token_id, probability = self._guess(text, position)
            row[token_id] = logit_of(probability, len(row))
        elif position <= num_right:
            row[self._next(text, position)] = _CERTAIN
        else:
            # Nothing is recorded after a wrong guess. Sampling from NaN raises an error.
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
    """Return the logit whose softmax beside num_vocab - 1 zeros is `probability`.

    It is positive, and so the largest: a probability that is not above that of the zeros is raised
    a little.
    """
    p = min(1.0 - _LEAST_DOUBT, max(1.01 / num_vocab, probability))
    return math.log(p * (num_vocab - 1) / (1.0 - p))
