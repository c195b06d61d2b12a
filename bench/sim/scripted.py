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
from nodes.engine.protocol import EngineInfo, Logits, SavedPrefix, Span

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


@dataclass(slots=True)
class _Sequence:
    text_id: int = 0
    length: int = 0
    # Position of the first wrong token.
    wrong_at: float = math.inf


class ScriptedModel:
    """A model that computes nothing. starts: number of prompt tokens by text id. guesses: None for
    a target; for a draft model a function of text id, the token's place in the output and its place
    after the last committed token, which returns whether the guess is right and its confidence.
    answers: tokens of prompt and output by text id; none for texts whose tokens are all RIGHT.
    """

    def __init__(
        self,
        starts: Mapping[int, int],
        guesses: Callable[[int, int, int], tuple[bool, float]] | None = None,
        *,
        answers: Mapping[int, Sequence[int]] | None = None,
        num_vocab: int = NUM_VOCAB,
        num_cells: int = 1 << 22,
        max_sequences: int = 256,
        max_batch_tokens: int = 512,
    ) -> None:
        self._starts = starts
        self._guesses = guesses
        self._answers = {} if answers is None else answers
        self._sequences = [_Sequence() for _ in range(max_sequences)]
        self._info = EngineInfo(
            engine="scripted",
            model="scripted",
            model_hash="scripted",
            vocab_hash="scripted",
            num_vocab=num_vocab,
            num_cells=num_cells,
            max_sequences=max_sequences,
            max_batch_tokens=max_batch_tokens,
            context_length=num_cells,
            eog_token_ids=frozenset(),
            exact=True,
            numerics_class="scripted",
            can_roll_back=True,
            emulated=True,
        )
        self._used = 0
        self._work: Work | None = None
        # Positions up to which each text is known to be committed.
        self.committed: dict[int, int] = {}
        self._row = np.zeros((1, num_vocab), dtype=np.float32)
        self._row[0, RIGHT] = _SURE_LOGIT

    def take_work(self) -> Work | None:
        """Return the work of the last pass; None if there was no pass since the last call."""
        work, self._work = self._work, None
        return work

    @property
    def info(self) -> EngineInfo:
        return self._info

    def forward(self, spans: Sequence[Span]) -> Logits:
        num_decoded = num_read = num_rows = 0
        used = self._used
        rows = []
        for span in spans:
            sequence = self._sequences[span.seq_id]
            self._append(sequence, span)
            if span.num_outputs:
                num_decoded += len(span.token_ids)
                num_rows += span.num_outputs
                if self._guesses is not None:
                    rows.append(self._guess(sequence))
                elif answer := self._answers.get(sequence.text_id):
                    ends = range(sequence.length - span.num_outputs, sequence.length)
                    rows += [self._row_of(answer[end + 1 : end + 2]) for end in ends]
            else:
                num_read += len(span.token_ids)
        self._work = Work(num_decoded, num_read, used)
        if self._guesses is None and not rows:
            return np.broadcast_to(self._row, (num_rows, self._info.num_vocab))
        return np.array(rows, dtype=np.float32) if rows else self._row[:0]

    def _append(self, sequence: _Sequence, span: Span) -> None:
        ids = span.token_ids
        assert span.start == sequence.length
        if span.start < NUM_DIGITS:
            for place, token_id in enumerate(ids[: NUM_DIGITS - span.start], span.start):
                sequence.text_id += (token_id - _FIRST_DIGIT) * _BASE**place
        elif self._guesses is not None and sequence.wrong_at == math.inf and _WRONG in ids:
            sequence.wrong_at = span.start + list(ids).index(_WRONG)
        sequence.length += len(ids)
        self._used += len(ids)

    def _guess(self, sequence: _Sequence) -> list[float]:
        assert self._guesses is not None
        text_id, length = sequence.text_id, sequence.length
        place = length - self._starts[text_id]
        after = length - self.committed.get(text_id, length)
        is_right, sure = self._guesses(text_id, place, max(0, after))
        is_right &= length <= sequence.wrong_at
        sure = min(_SURE, max(2.0 / NUM_VOCAB, sure))
        row = [0.0] * NUM_VOCAB
        # The guess gets the probability `sure`; the other tokens share the rest equally.
        row[RIGHT if is_right else _WRONG] = math.log(sure / (1.0 - sure) * (NUM_VOCAB - 1))
        return row

    def _row_of(self, next_ids: Sequence[int]) -> list[float]:
        row = [0.0] * self._info.num_vocab
        for token_id in next_ids:
            row[token_id] = _SURE_LOGIT
        return row

    def truncate(self, seq_id: int, length: int) -> None:
        sequence = self._sequences[seq_id]
        self._used -= sequence.length - length
        sequence.length = length
        if length <= sequence.wrong_at:
            sequence.wrong_at = math.inf
        if length < NUM_DIGITS:
            assert length == 0
            sequence.text_id = 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        found, sequence = self._sequences[source], self._sequences[target]
        sequence.text_id, sequence.length = found.text_id, length
        self._used += length

    def save(self, seq_id: int) -> SavedPrefix:
        sequence = self._sequences[seq_id]
        state = np.array([sequence.text_id], dtype=np.int64).view(np.uint8)
        return SavedPrefix(sequence.length, state)

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        sequence = self._sequences[seq_id]
        sequence.text_id = int(saved.state.view(np.int64)[0])
        sequence.length = length
        self._used += length

    def length(self, seq_id: int) -> int:
        return self._sequences[seq_id].length

    def free_cells(self) -> int:
        return self._info.num_cells - self._used

    def metadata(self, key: str) -> str:
        return ""

    def close(self) -> None:
        pass


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
