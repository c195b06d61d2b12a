"""Engines for simulated meshes: real node states run on them, but they compute no token.

A target's next token is that of the stream's text, or always 0 if the text has no tokens of its
own. A draft model guesses 0, which is right, or 1, which is wrong, as the stream's text says. After
a wrong token all its guesses are wrong. The first tokens of a sequence encode the id of its text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.sim.scenario import Text
from nodes.engine.emulated import EmulatedModel
from nodes.engine.protocol import EngineInfo, Logits, Span

RIGHT: Final = 0
_WRONG: Final = 1
# Ids of texts are written as NUM_DIGITS digits, whose token ids begin here.
_FIRST_DIGIT: Final = 2
_BASE: Final = 16
NUM_DIGITS: Final = 5
NUM_VOCAB: Final = _FIRST_DIGIT + _BASE
_SURE: Final = 0.999
_SURE_LOGIT: Final = 20.0
_UNSURE: Final = 0.5


def prompt_of(text_id: int, num_tokens: int, token_ids: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the tokens of a prompt that encodes text_id. num_tokens: at least NUM_DIGITS.
    token_ids: tokens of the prompt, whose first NUM_DIGITS are replaced."""
    digits = [_FIRST_DIGIT + text_id // _BASE**k % _BASE for k in range(NUM_DIGITS)]
    rest = token_ids[NUM_DIGITS:num_tokens] or [RIGHT] * (num_tokens - NUM_DIGITS)
    return (*digits, *rest)


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a pass: tokens of sequences with outputs and of those without, and used cells."""

    num_decoded: int
    num_read: int
    used_cells: int


class ScriptedModel(EmulatedModel):
    """A model that computes nothing. starts: number of prompt tokens by text id. guesses: None for
    a target; for a draft model a function of text id, the token's place in the output and its place
    after the last committed token, which returns whether the guess is right and its confidence.
    answers: tokens of prompt and output by text id; none for texts whose tokens are all RIGHT.
    """

    saved_type = np.uint32

    def __init__(
        self,
        starts: Mapping[int, int],
        guesses: Callable[[int, int, int], tuple[bool, float]] | None = None,
        *,
        answers: Mapping[int, Sequence[int]] | None = None,
        num_vocab: int = NUM_VOCAB,
        num_cells: int = 1 << 22,
    ) -> None:
        self._starts = starts
        self._guesses = guesses
        self._answers = {} if answers is None else answers
        info = EngineInfo(
            engine="scripted",
            model="scripted",
            model_hash="scripted",
            vocab_hash="scripted",
            num_vocab=num_vocab,
            num_cells=num_cells,
            max_sequences=256,
            max_batch_tokens=512,
            context_length=num_cells,
            eog_token_ids=frozenset(),
            exact=True,
            numerics_class="scripted",
            can_roll_back=True,
            emulated=True,
        )
        super().__init__(info)
        self._work: Work | None = None
        # Positions up to which each text is known to be committed.
        self.committed: dict[int, int] = {}
        self._row = np.zeros((1, num_vocab), dtype=np.float32)
        self._row[0, RIGHT] = _SURE_LOGIT

    def take_work(self) -> Work | None:
        """Return the work of the last pass; None if there was no pass since the last call."""
        work, self._work = self._work, None
        return work

    def forward(self, spans: Sequence[Span]) -> Logits:
        num_decoded = num_read = num_rows = 0
        used = self.info.num_cells - self.free_cells()
        rows = []
        for span in spans:
            before = self._sequences[span.seq_id]
            assert span.start == len(before)
            ids = self._sequences[span.seq_id] = (*before, *span.token_ids)
            if not span.num_outputs:
                num_read += len(span.token_ids)
                continue
            num_decoded += len(span.token_ids)
            num_rows += span.num_outputs
            if self._guesses is not None:
                rows.append(self._guess(ids))
            elif self._answers and (answer := self._answers.get(_text_id(ids))):
                ends = range(len(ids) - span.num_outputs, len(ids))
                rows += [self._row_of(answer[end + 1 : end + 2]) for end in ends]
        self._work = Work(num_decoded, num_read, used)
        if self._guesses is None and not rows:
            return np.broadcast_to(self._row, (num_rows, self.info.num_vocab))
        return np.array(rows, dtype=np.float32) if rows else self._row[:0]

    def _guess(self, ids: tuple[int, ...]) -> list[float]:
        assert self._guesses is not None
        text_id, length = _text_id(ids), len(ids)
        place = length - self._starts[text_id]
        after = length - self.committed.get(text_id, length)
        is_right, sure = self._guesses(text_id, place, max(0, after))
        is_right &= _WRONG not in ids
        sure = min(_SURE, max(2.0 / NUM_VOCAB, sure))
        row = [0.0] * NUM_VOCAB
        # The guess gets the probability `sure`; the other tokens share the rest equally.
        row[RIGHT if is_right else _WRONG] = math.log(sure / (1.0 - sure) * (NUM_VOCAB - 1))
        return row

    def _row_of(self, next_ids: Sequence[int]) -> list[float]:
        row = [0.0] * self.info.num_vocab
        for token_id in next_ids:
            row[token_id] = _SURE_LOGIT
        return row


def _text_id(ids: Sequence[int]) -> int:
    digits = enumerate(ids[:NUM_DIGITS])
    return sum((token_id - _FIRST_DIGIT) * _BASE**place for place, token_id in digits)


def guesses_of(texts: Mapping[int, Text]) -> Callable[[int, int, int], tuple[bool, float]]:
    """Return a function that gives a draft model's guesses of these texts and their confidence.

    The confidence is the token's own chance if known, else the believed one, else constant.
    """

    def guess(text_id: int, place: int, after: int) -> tuple[bool, float]:
        text = texts[text_id]
        if place >= len(text.luck):
            return False, _UNSURE
        if text.chances:
            return text.luck[place] < text.chances[place], text.chances[place]
        is_right = text.luck[place] < _at(text.alphas, after)
        return is_right, _at(text.believed, after) if text.believed else _UNSURE

    return guess


def _at(values: Sequence[float], place: int) -> float:
    """Return the value at a place, or the last value beyond the end."""
    return values[min(place, len(values) - 1)]
