"""Does this engine compute equal bits whatever the batch? Asked at start-up, never assumed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from nodes.engine.noise import drawn_ids
from nodes.engine.protocol import Logits, Model, Span

_WIDTHS = (2, 5, 9)
_NUM_STEPS = 10
_NUM_FOREIGN = 128
# The second lies past 512 keys, where ggml's attention changes its kernel.
PREFIX_LENS = (24, 520)
# Our kernels change nothing with the number of keys. The steps after so many tokens go from the
# first piece of attention (64 keys) into the second; reading them takes more than one tile.
PREFIX_LENS_OF_KERNELS = (60,)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """exact: every probe gave the bits of plain single steps; failure names one that did not.

    digest: of those bits, after every prefix that has room, up to one that failed: builds of one
    name may compute others. "" where none has room.
    """

    exact: bool
    failure: str = ""
    digest: str = ""


def run_self_test(model: Model, *, prefix_lens: tuple[int, ...] = PREFIX_LENS) -> SelfTest:
    """Compare logits of single steps with those of other batch shapes, bit for bit.

    Probes: wider passes, another prefill chunking, foreign sequences before and beside, rejected
    guesses between (so that the cache holds garbage), and the place where attention changes its
    kernel (512 keys). Leaves the cache empty. A prefix that does not fit in it is left out.
    """
    num_cells = model.info.num_cells
    tested = fitting_prefixes(num_cells, prefix_lens)
    if not tested:
        return SelfTest(False, f"a cache of {num_cells} cells is too small for a test")
    bits = hashlib.sha256()
    for prefix_len in tested:
        failure, plain = _probe(model, prefix_len)
        bits.update(plain.tobytes())
        if failure:
            failure = f"{failure} after {prefix_len} tokens"
            return SelfTest(False, failure, bits.hexdigest()[:16])
    return SelfTest(True, "", bits.hexdigest()[:16])


def fitting_prefixes(num_cells: int, prefix_lens: tuple[int, ...] = PREFIX_LENS) -> tuple[int, ...]:
    """Which prefixes a cache has room to be tested with."""
    return tuple(n for n in prefix_lens if n + _NUM_FOREIGN <= num_cells)


def _probe(model: Model, prefix_len: int) -> tuple[str, Logits]:
    """What differed, if anything did, and the logits of plain single steps."""
    num_vocab = model.info.num_vocab
    token_ids = drawn_ids(prefix_len, prefix_len + _NUM_STEPS, num_vocab)
    foreign = drawn_ids(prefix_len + 1, _NUM_FOREIGN, num_vocab)
    chunk = model.info.max_batch_tokens
    try:
        _prefill(model, 0, token_ids[:prefix_len], chunk)
        plain = _steps(model, 0, token_ids, prefix_len)
        for width in _WIDTHS:
            model.truncate(0, prefix_len)
            rows = model.forward([Span(0, prefix_len, token_ids[prefix_len:][:width], width)])
            if not np.array_equal(rows, plain[:width]):
                return f"a pass of {width} tokens differs from single steps", plain
        model.truncate(0, 0)
        # A neighbour's cells lie before, between and beside ours; then the neighbour leaves.
        _prefill(model, 1, foreign[:20], chunk)
        _prefill(model, 0, token_ids[:prefix_len], 23)
        mixed = _mixed_steps(model, token_ids, foreign, prefix_len)
        if not np.array_equal(mixed, plain):
            return "passes shared with another sequence differ from single steps", plain
    finally:
        for seq_id in (0, 1):
            model.truncate(seq_id, 0)
    return "", plain


def _prefill(model: Model, seq_id: int, token_ids: list[int], chunk: int) -> None:
    for start in range(0, len(token_ids), chunk):
        model.forward([Span(seq_id, start, token_ids[start : start + chunk])])


def _steps(model: Model, seq_id: int, token_ids: list[int], start: int) -> Logits:
    rows = [
        model.forward([Span(seq_id, position, [token_ids[position]], 1)])[0].copy()
        for position in range(start, start + _NUM_STEPS)
    ]
    return np.stack(rows)


def _mixed_steps(model: Model, token_ids: list[int], foreign: list[int], start: int) -> Logits:
    rows: list[Logits] = []
    position, width = start, 1
    while position < start + _NUM_STEPS:
        right = token_ids[position : min(position + width, start + _NUM_STEPS)]
        wrong = foreign[:2]
        neighbour = model.length(1)
        spans = [Span(0, position, right + wrong, len(right) + len(wrong))]
        if len(rows) < _NUM_STEPS // 2:
            spans.insert(0, Span(1, neighbour, foreign[:3], 1))
        elif neighbour:
            model.truncate(1, 0)
        logits = model.forward(spans)
        offset = len(spans) - 1
        rows.extend(row.copy() for row in logits[offset : offset + len(right)])
        position += len(right)
        model.truncate(0, position)
        if len(spans) == 2:
            model.truncate(1, neighbour + 1)
        width = width % 4 + 1
    return np.stack(rows)
