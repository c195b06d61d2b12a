"""Guesses for models with recurrent layers, whose state can only go back as a whole. Pure.

A recurrent layer has one state for all tokens that it has read. The state of a sequence is kept
before a pass with guesses. After a wrong guess the sequence goes back to it, and the accepted
tokens are pending: the next pass runs them again, in front of its own tokens.

These layers need equally many tokens of each sequence at a time, and read their weights once for
each such time. So the spans of a pass that may be taken back are made equally long.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from airdraft.nodes.engine.protocol import InvalidInputError, Span

# Fills up spans. Any token will do, because what it changes is taken back.
_PADDING: Final = 0


@dataclass(slots=True)
class _Text:
    """What is known of one sequence.

    pending: tokens of its text that the engine took back and did not run again yet. kept: length of
    the sequence in the engine when its state was kept; None if none is kept. since: what it ran
    after that.
    """

    pending: list[int] = field(default_factory=list)
    kept: int | None = None
    since: list[int] = field(default_factory=list)


class Replay:
    """Plans the passes of an engine that keeps one state of each sequence.

    Lengths are those of texts: in the engine a sequence lacks its pending tokens.
    """

    def __init__(self, max_sequences: int) -> None:
        self._texts = [_Text() for _ in range(max_sequences)]

    @property
    def num_pending(self) -> int:
        """The pending tokens of all sequences."""
        return sum(len(text.pending) for text in self._texts)

    def pending(self, seq_id: int) -> Sequence[int]:
        return self._texts[seq_id].pending

    def passes(self, spans: Sequence[Span], most_tokens: int, num_cells: int) -> list[list[Span]]:
        """Returns what the engine runs one after the other, each of it in equally long spans.

        The spans begin where the engine's sequences end. Those that may be taken back run last and
        together, filled up to one length if so many tokens fit in a pass and in the cache;
        otherwise there is a pass for each length. most_tokens: limit of a pass.
        """
        whole = [self._with_pending(span) for span in spans]
        if any(len(span.token_ids) > most_tokens for span in whole):
            # Pending tokens run by themselves. The spans then are as long as they were.
            first = [self._pending_alone(span) for span in spans if self.pending(span.seq_id)]
            return [*equal_passes(first, most_tokens), *equal_passes(spans, most_tokens)]
        others = [span for span in whole if not span.keeps]
        last = [span for span in whole if span.keeps]
        longest = max((len(span.token_ids) for span in last), default=0)
        num_tokens = sum(len(span.token_ids) for span in others) + longest * len(last)
        if longest * len(last) <= most_tokens and num_tokens <= num_cells:
            last = [padded(span, longest) for span in last]
        return [*equal_passes(others, most_tokens), *equal_passes(last, most_tokens)]

    def _with_pending(self, span: Span) -> Span:
        pending = self._texts[span.seq_id].pending
        if not pending:
            return span
        return replace(span, start=span.start - len(pending), token_ids=[*pending, *span.token_ids])

    def _pending_alone(self, span: Span) -> Span:
        pending = tuple(self._texts[span.seq_id].pending)
        return Span(span.seq_id, span.start - len(pending), pending)

    def ran(self, span: Span) -> None:
        """Note that a span of passes() has run; if it keeps, the engine kept the state before."""
        text = self._texts[span.seq_id]
        text.pending = []
        if span.keeps:
            text.kept, text.since = span.start, []
        if text.kept is not None:
            text.since += span.token_ids[: len(span.token_ids) - span.num_padding]

    def keepers(self, lengths: Sequence[int]) -> list[int]:
        """Returns the sequences whose kept state is another one than theirs now.

        lengths: (max_sequences,) of the sequences in the engine.
        """
        texts = enumerate(zip(self._texts, lengths, strict=True))
        return [n for n, (text, length) in texts if text.kept is not None and text.kept < length]

    def cut(self, seq_id: int, length: int, in_engine: int) -> int:
        """Cut a text to fewer tokens; returns the length that its sequence in the engine gets.

        in_engine: the present length of that. Raises InvalidInputError if there is no state of so
        few tokens.
        """
        text = self._texts[seq_id]
        if length == 0:
            self._texts[seq_id] = _Text()
            return 0
        if text.pending and length >= in_engine:
            del text.pending[length - in_engine :]
            return in_engine
        if text.kept is None or length < text.kept:
            raise InvalidInputError(f"sequence {seq_id} has no state to go back to {length} tokens")
        text.pending, text.since = text.since[: length - text.kept], []
        return text.kept

    def copied(self, source: int, target: int, num_pending: int) -> None:
        """Note that the engine copied a sequence, whose first pending tokens the copy has, too."""
        self._texts[target] = _Text(self._texts[source].pending[:num_pending])

    def restored(self, seq_id: int, pending: Sequence[int]) -> None:
        self._texts[seq_id] = _Text(list(pending))


def padded(span: Span, length: int) -> Span:
    """Returns a span that is filled up to a length."""
    missing = length - len(span.token_ids)
    token_ids = [*span.token_ids, *itertools.repeat(_PADDING, missing)]
    return replace(span, token_ids=token_ids, num_padding=missing) if missing else span


def equal_passes(spans: Sequence[Span], most_tokens: int) -> list[list[Span]]:
    """Returns the spans in groups of one length, each of at most so many tokens."""
    by_length: dict[int, list[Span]] = {}
    for span in spans:
        by_length.setdefault(len(span.token_ids), []).append(span)
    passes = []
    for length, group in sorted(by_length.items()):
        size = max(1, most_tokens // length)
        passes += [group[start : start + size] for start in range(0, len(group), size)]
    return passes
