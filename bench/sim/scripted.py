"""Engines for simulated meshes: real node states run on them, but they compute no token.

A target's next token is that of the stream's text, or always 0 if the text has no tokens of its
own. A draft model guesses 0, which is right, or another one, as the stream's text says. Where it is
wrong, 0 often is its next choice. After a wrong token all its guesses are wrong. The first tokens
of a sequence encode the id of its text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

import numpy as np

from airdraft.nodes.engine.emulated import EmulatedModel
from airdraft.nodes.engine.protocol import EngineInfo, Logits, Span
from airdraft.nodes.worker.engines import BRANCHES
from bench.sim.scenario import Text

RIGHT: Final = 0
_WRONG: Final = 1
# Ids of texts are written as NUM_DIGITS digits, whose token ids begin here.
_FIRST_DIGIT: Final = 2
_BASE: Final = 16
NUM_DIGITS: Final = 5
NUM_VOCAB: Final = _FIRST_DIGIT + _BASE
_WRONG_TOKENS: Final = frozenset(range(_WRONG, NUM_VOCAB))
_SURE: Final = 0.999
_SURE_LOGIT: Final = 20.0
# How often the right token was the second, third and fourth choice where the first one was wrong:
# the mean of code and chat of the recorded Qwen2.5-Coder pair (bench/emulate/recordings).
_OTHER_SHARES: Final = (0.53, 0.21, 0.09)
_OTHER_WRONGS: Final = range(_WRONG + 1, _WRONG + 1 + len(_OTHER_SHARES))
# That of the second choice: above those of all others, and below any first choice.
_OTHERS_LOGIT: Final = 1e-3


def prompt_of(text_id: int, num_tokens: int, token_ids: Sequence[int] = ()) -> tuple[int, ...]:
    """Returns the tokens of a prompt that encodes text_id. num_tokens: at least NUM_DIGITS.
    token_ids: tokens of the prompt, whose first NUM_DIGITS are replaced."""
    digits = [_FIRST_DIGIT + text_id // _BASE**k % _BASE for k in range(NUM_DIGITS)]
    rest = token_ids[NUM_DIGITS:num_tokens] or [RIGHT] * (num_tokens - NUM_DIGITS)
    return (*digits, *rest)


class Work(NamedTuple):
    """Work of a pass: tokens of sequences with outputs and of those without, and used cells."""

    num_decoded: int
    num_read: int
    used_cells: int


class ScriptedModel(EmulatedModel):
    """A model that computes nothing. texts: by their ids. is_draft: it guesses tokens of texts, as
    they say, and otherwise goes on with them."""

    saved_type = np.uint32

    def __init__(
        self,
        texts: Mapping[int, Text],
        *,
        is_draft: bool = False,
        num_vocab: int = NUM_VOCAB,
        num_cells: int = 1 << 22,
    ) -> None:
        self._texts = texts
        self._is_draft = is_draft
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
            can_cut=True,
            can_take_back=True,
            num_branches=BRANCHES if is_draft else 0,
            emulated=True,
        )
        super().__init__(info)
        self._work: Work | None = None
        # Positions up to which each text is known to be committed.
        self.committed: dict[int, int] = {}
        self._row = np.zeros((1, num_vocab), dtype=np.float32)
        self._row[0, RIGHT] = _SURE_LOGIT

    def take_work(self) -> Work | None:
        """Returns the work of the last pass; None if there was no pass since the last call."""
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
            text_id = _text_id(ids)
            if self._is_draft:
                rows.append(self._guess(text_id, ids))
            elif (text := self._texts.get(text_id)) is not None and text.token_ids:
                ends = range(len(ids) - span.num_outputs + 1, len(ids) + 1)
                rows += [self._row_of(text.token_ids[end : end + 1]) for end in ends]
        self._work = Work(num_decoded, num_read, used)
        if rows or self._is_draft:
            return np.array(rows, dtype=np.float32) if rows else self._row[:0]
        return np.broadcast_to(self._row, (num_rows, self.info.num_vocab))

    def _guess(self, text_id: int, ids: tuple[int, ...]) -> list[float]:
        text, length = self._texts[text_id], len(ids)
        after = length - self.committed.get(text_id, length)
        is_right, sure = text.guess(length - text.num_prompt_tokens, max(0, after))
        is_right &= _WRONG_TOKENS.isdisjoint(ids[text.num_prompt_tokens :])
        sure = min(_SURE, max(2.0 / NUM_VOCAB, sure))
        row = [0.0] * NUM_VOCAB
        others = list(_OTHER_WRONGS)
        if not is_right:
            drawn = Random(text_id << 32 | length).random()
            place = sum(drawn >= share for share in itertools.accumulate(_OTHER_SHARES))
            others.insert(place, RIGHT)
        for rank, token_id in enumerate(others[: len(_OTHER_SHARES)], 1):
            row[token_id] = _OTHERS_LOGIT / rank
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
