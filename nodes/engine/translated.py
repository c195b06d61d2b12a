"""A draft model that guesses tokens for a target with another vocabulary."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from airdraft.nodes.engine.dictionary import MOST_OWN, Dictionary
from airdraft.nodes.engine.protocol import (
    EngineError,
    InvalidInputError,
    Logits,
    Sequences,
    Span,
    check_spans,
    common_prefix,
)
from airdraft.nodes.engine.vocab import LlamaTokenizer


@dataclass(slots=True)
class _Sequence:
    """A sequence in the target's tokens, and in the draft model's own tokens.

    ends: For k from 0 on, the number of own tokens that stand for its first k tokens. own: The
    tokens in the draft model's cache, which may hold one more than the text. rows: Logits by the
    number of own tokens before them.
    """

    ends: list[int] = field(default_factory=lambda: [0])
    own: list[int] = field(default_factory=list)
    rows: dict[int, Logits] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(self.ends) - 1

    def cut(self, num_own: int) -> None:
        del self.own[num_own:]
        self.rows = {place: row for place, row in self.rows.items() if place <= num_own}


class TranslatedModel:
    """A draft model that reads and guesses its target's tokens. It is not thread-safe.

    Each of the target's tokens may take two own tokens, and so two cells. A pass also runs the
    draft model's likeliest next token. That token may be the first half of a token of the target,
    and if it is guessed, the next guess needs less work.
    """

    def __init__(
        self, model: Sequences, own: LlamaTokenizer, target: LlamaTokenizer, vocab_hash: str
    ) -> None:
        """Wrap a draft model with vocabulary `own` for a target with vocabulary `target`.

        vocab_hash: That of the target's EngineInfo. Raises EngineError if the model has too few
        cells.
        """
        self._model = model
        self.dictionary = Dictionary(own, target)
        self._first = own.first_token_ids()
        self._own_ends = own.eog_token_ids()
        info = model.info
        self._ahead = info.max_sequences * (1 + len(self._first))
        if info.num_cells < 2 * self._ahead:
            raise EngineError(
                f"{info.num_cells} cells are too few for {info.max_sequences} streams of another "
                f"vocabulary: at least {2 * self._ahead} are needed"
            )
        self.info = replace(
            info,
            vocab_hash=vocab_hash,
            num_vocab=target.num_vocab,
            num_cells=(info.num_cells - self._ahead) // MOST_OWN,
            max_batch_tokens=info.max_batch_tokens // (MOST_OWN + len(self._first)),
            context_length=info.context_length // MOST_OWN,
            eog_token_ids=target.eog_token_ids(),
            # A pass runs a token ahead, which often has to go again.
            can_take_back=info.can_cut,
            num_branches=0,
        )
        self._texts = [_Sequence() for _ in range(info.max_sequences)]

    def forward(self, spans: Sequence[Span]) -> Logits:
        """Run spans as Model.forward does; only a span's last token may have logits."""
        check_spans(spans, self.info, [text.length for text in self._texts])
        if any(span.num_outputs > 1 for span in spans):
            raise InvalidInputError("a translated model has logits for a span's last token only")
        self._run([read for span in spans if (read := self._read(span)) is not None])
        wanted = [self._texts[span.seq_id] for span in spans if span.num_outputs]
        likeliest = [self._likeliest(text) for text in wanted]
        seqs = [span.seq_id for span in spans if span.num_outputs]
        ahead = [
            Span(seq_id, len(text.own), [token_id], 1)
            for seq_id, text, token_id in zip(seqs, wanted, likeliest, strict=True)
            if len(text.own) == text.ends[-1] and token_id not in self._own_ends
        ]
        if len(ahead) <= self._model.free_cells():
            self._run(ahead)
        rows = np.empty((len(wanted), self.info.num_vocab), dtype=np.float32)
        for row, text, token_id in zip(rows, wanted, likeliest, strict=True):
            end = text.ends[-1]
            row[:] = self.dictionary.translated(
                self._row(text, end), token_id, text.rows.get(end + 1)
            )
            text.rows = {place: kept for place, kept in text.rows.items() if place >= end}
        return rows

    def _read(self, span: Span) -> Span | None:
        """Returns the tokens that the draft model must run for a span; None if it has them all."""
        text = self._texts[span.seq_id]
        begin = text.ends[-1]
        new = [] if text.length else list(self._first)
        for token_id in span.token_ids:
            new += self.dictionary.own_tokens(token_id)
            text.ends.append(begin + len(new))
        end = text.ends[-1]
        num_same = common_prefix(new, text.own[begin:])
        if num_same < len(new):
            self._cut(span.seq_id, begin + num_same)
            return Span(span.seq_id, begin + num_same, new[num_same:], span.num_outputs)
        if not span.num_outputs or not end or end in text.rows:
            return None
        # The logits after the last token are not kept, so it runs again.
        last = text.own[end - 1]
        self._cut(span.seq_id, end - 1)
        return Span(span.seq_id, end - 1, [last], 1)

    def _run(self, spans: Sequence[Span]) -> None:
        if not spans:
            return
        logits = self._model.forward(spans)
        row = 0
        for span in spans:
            text = self._texts[span.seq_id]
            text.own += span.token_ids
            if span.num_outputs:
                text.rows[len(text.own)] = logits[row].copy()
                row += 1

    def _row(self, text: _Sequence, place: int) -> Logits:
        """Returns the logits after `place` own tokens; zeros if there are none."""
        row = text.rows.get(place)
        return row if row is not None else np.zeros(self._model.info.num_vocab, dtype=np.float32)

    def _likeliest(self, text: _Sequence) -> int:
        end = text.ends[-1]
        return text.own[end] if len(text.own) > end else int(self._row(text, end).argmax())

    def _cut(self, seq_id: int, num_own: int) -> None:
        if len(self._texts[seq_id].own) > num_own:
            self._model.truncate(seq_id, num_own)
            self._texts[seq_id].cut(num_own)

    def truncate(self, seq_id: int, length: int) -> None:
        text = self._texts[seq_id]
        del text.ends[length + 1 :]
        self._cut(seq_id, text.ends[-1])

    def num_pending(self, seq_id: int) -> int:
        return 0

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        text = self._texts[source]
        ends = text.ends[: length + 1]
        if ends[-1]:
            self._model.copy_prefix(source, target, ends[-1])
        self._texts[target] = _Sequence(ends, text.own[: ends[-1]])

    def shortest(self, seq_id: int) -> int:
        return bisect.bisect_left(self._texts[seq_id].ends, self._model.shortest(seq_id))

    def length(self, seq_id: int) -> int:
        return self._texts[seq_id].length

    @property
    def num_threads(self) -> int:
        return self._model.num_threads

    def free_cells(self) -> int:
        return max(0, self._model.free_cells() - self._ahead) // MOST_OWN

    def make_room(self, num_tokens: int) -> None:
        pass

    def close(self) -> None:
        self._model.close()
