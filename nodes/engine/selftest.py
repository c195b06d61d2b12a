"""Tests of the bits that an engine computes: at start-up, and with tokens of the coordinator."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import (
    InvalidInputError,
    Logits,
    Model,
    SavedPrefix,
    Span,
    StreamError,
)
from airdraft.nodes.engine.sampling import Sampling, sample

_WIDTHS = (2, 5, 9)
_NUM_STEPS = 10
_NUM_FOREIGN = 128
_NUM_PROBED = 32
# The tokens of two sequences in each pass that they share. The longer span comes first in the first
# pass: a log that is wrong about the order of cells then believes that the shorter one is its end.
_TURNS = ((20, 8), (3, 0), (0, 9), (5, 17), (2, 1), (12, 12), (0, 3), (1, 4))
# GLM5-next has another attention with more than 512 cells in use, and ggml others with more keys.
_NUM_CROWDED = 640
# Of a 32-bit float.
_NEGATIVE_ZERO = 1 << 31
# From 512 keys on ggml's attention uses another kernel, so one prefix is longer than that.
PREFIX_LENS = (24, 520)
# Our kernels do not change with the number of keys. The steps after these tokens cross from the
# first piece of attention (64 keys) into the second, and reading them takes more than one tile.
PREFIX_LENS_OF_KERNELS = (60,)
# ggml's recurrent layers take up to 64 tokens at a time, so this is read in several such pieces.
PREFIX_LEN_OF_STATES = 150

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The result of a self-test.

    exact: Every probe gave the bits of plain single steps. failure: Names the probe that did not.
    digest: The digest of those bits, after every prefix that fits, up to the one that failed.
    Builds of one name may compute different bits. It is "" if no prefix fits.
    """

    exact: bool
    failure: str = ""
    digest: str = ""


def run_self_test(model: Model, *, prefix_lens: tuple[int, ...] = PREFIX_LENS) -> SelfTest:
    """Compare the logits of single steps with those of other batch shapes, bit for bit.

    The probes are wider passes, another prefill chunking, another sequence before and beside, and
    rejected guesses in between, so that the cache holds garbage; steps with many cells in use; and
    two sequences with unequal spans and unequal numbers of wrong guesses, one of which is freed
    after its first pass, and which sit out passes, are saved and restored, or rewritten by a
    compaction. What the cache holds of a sequence is compared, too. They also cross the number of
    keys (512) from which attention uses another kernel. The cache is empty at the end. A prefix
    that does not fit into it, or into the model's context, is left out. A model that cannot take
    guesses back is tested without wrong ones.
    """
    max_length = model.info.max_length
    tested = fitting_prefixes(max_length, prefix_lens)
    if not tested:
        return SelfTest(False, f"texts of {max_length} tokens are too short for a test")
    bits = hashlib.sha256()
    for prefix_len in tested:
        failure, plain = _probe(model, prefix_len)
        bits.update(plain.tobytes())
        if failure:
            failure = f"{failure} after {prefix_len} tokens"
            return SelfTest(False, failure, bits.hexdigest()[:16])
    return SelfTest(True, "", bits.hexdigest()[:16])


def fitting_prefixes(
    max_length: int, prefix_lens: tuple[int, ...] = PREFIX_LENS
) -> tuple[int, ...]:
    """Returns the prefixes that can be tested if sequences have at most so many positions."""
    return tuple(n for n in prefix_lens if n + _NUM_FOREIGN <= max_length)


def _probe(model: Model, prefix_len: int) -> tuple[str, Logits]:
    """Returns the first difference, "" if there is none, and the logits of plain single steps."""
    num_vocab = model.info.num_vocab
    token_ids = drawn_ids(prefix_len, prefix_len + _NUM_STEPS, num_vocab)
    foreign = drawn_ids(prefix_len + 1, _NUM_FOREIGN, num_vocab)
    chunk = model.info.max_batch_tokens
    try:
        _prefill(model, 0, token_ids[:prefix_len], chunk)
        begun = model.save(0)
        plain = _steps(model, 0, token_ids, prefix_len)
        ended = _state(model)
        for width in _WIDTHS:
            _rewind(model, token_ids[:prefix_len], chunk)
            guessed = token_ids[prefix_len:][:width]
            rows = model.forward([Span(0, prefix_len, guessed, width, keeps=True)])
            if not np.array_equal(rows, plain[:width]):
                return f"a pass of {width} tokens differs from single steps", plain
        model.truncate(0, 0)
        # Another sequence has cells before and between those of sequence 0, then it is removed.
        _prefill(model, 1, foreign[:20], chunk)
        _prefill(model, 0, token_ids[:prefix_len], 23)
        mixed = _mixed_steps(model, token_ids, foreign, prefix_len)
        if not np.array_equal(mixed, plain):
            return "passes shared with another sequence differ from single steps", plain
        if not np.array_equal(_settled_state(model, token_ids), ended):
            return "passes shared with another sequence leave another state", plain
        model.truncate(0, 0)
        num_used = _crowd(model, begun)
        mixed = _mixed_steps(model, token_ids, foreign, prefix_len)
        if not np.array_equal(mixed, plain):
            return f"steps with {num_used} cells in use differ from single steps", plain
        model.truncate(0, 0)
        if 2 * len(token_ids) > model.info.num_cells:
            return "", plain
        return _take_turns(model, token_ids, foreign, prefix_len, plain, ended), plain
    finally:
        for seq_id in (0, 1):
            model.truncate(seq_id, 0)


def _crowd(model: Model, begun: SavedPrefix) -> int:
    """Restore sequence 0 behind garbage; returns the cells in use.

    Nothing is computed: the same text is restored again and again, each time before the last one
    is freed.
    """
    room = min(_NUM_CROWDED, model.info.num_cells - _NUM_FOREIGN)
    count = max(1, room // begun.length)
    for seq_id in (n % 2 for n in reversed(range(count))):
        model.restore(seq_id, begun, begun.length)
        model.truncate(1 - seq_id, 0)
    return count * begun.length


def _take_turns(
    model: Model,
    token_ids: list[int],
    foreign: list[int],
    prefix_len: int,
    plain: Logits,
    ended: Words,
) -> str:
    """Read one text in two sequences, with unequal spans; returns the first difference.

    Sequence 1 is freed after the first pass and begins again. Later either of them sits out passes.
    """
    turns = itertools.cycle(_TURNS)
    lengths = [0, 0]
    for num_pass in itertools.count():
        spans = []
        for seq_id, count in enumerate(next(turns)):
            start = lengths[seq_id]
            end = lengths[seq_id] = min(start + count, len(token_ids))
            if end > start:
                num_right = max(0, end - max(start, prefix_len))
                # The first tokens of a text are read as those of a prompt are.
                has_guesses = start > 0 and model.info.can_take_back
                wrong = foreign[: (num_pass + 2 * seq_id) % 4] if has_guesses else []
                spans.append(
                    Span(
                        *(seq_id, start, token_ids[start:end] + wrong, num_right + len(wrong)),
                        keeps=start > 0,
                    )
                )
        if num_pass % 2:
            spans.reverse()
        if not spans:
            continue
        rows = model.forward(spans)
        for span in spans:
            num_right = max(0, lengths[span.seq_id] - max(span.start, prefix_len))
            first = lengths[span.seq_id] - num_right - prefix_len
            if not np.array_equal(rows[:num_right], plain[first : first + num_right]):
                return "two texts that take turns differ from single steps"
            rows = rows[span.num_outputs :]
            model.truncate(span.seq_id, lengths[span.seq_id])
        if num_pass == 0:
            model.truncate(1, 0)
            lengths[1] = 0
        elif min(lengths) == len(token_ids):
            break
        elif num_pass % 3 == 0:
            model.compact()
        elif num_pass % 3 == 1 and lengths[1]:
            saved = model.save(1)
            model.truncate(1, 0)
            model.restore(1, saved, saved.length)
    states = [_settled_state(model, token_ids)]
    # What is saved of a sequence contains its number, so the other one is compared as sequence 0.
    saved = model.save(1)
    model.truncate(0, 0)
    model.restore(0, saved, saved.length)
    states.append(_settled_state(model, token_ids))
    if not all(np.array_equal(state, ended) for state in states):
        return "two texts that take turns leave other states than single steps"
    return ""


def _settled_state(model: Model, token_ids: list[int]) -> Words:
    """Returns the state of sequence 0 after it has computed what is pending."""
    if model.num_pending(0):
        last = len(token_ids) - 1
        model.truncate(0, last)
        model.forward([Span(0, last, token_ids[last:])])
    return _state(model)


def _state(model: Model) -> Words:
    """Returns all that the cache holds of sequence 0, in the order of its cells.

    Few logits of small models show that cells lie in another order or that a state is wrong.
    """
    saved = model.save(0).state
    words = np.append(saved, np.zeros(-saved.size % 4, dtype=np.uint8)).view(np.uint32)
    # A sequence begins with the state of an earlier one times 0, whose zeros may be negative.
    words[words == _NEGATIVE_ZERO] = 0
    return words


def _prefill(model: Model, seq_id: int, token_ids: list[int], chunk: int) -> None:
    for start in range(0, len(token_ids), chunk):
        model.forward([Span(seq_id, start, token_ids[start : start + chunk])])


def _rewind(model: Model, prefix: list[int], chunk: int) -> None:
    """Cut sequence 0 to its prefix, or read this again if the model cannot go back."""
    if model.info.can_take_back and not model.info.num_snapshots:
        model.truncate(0, len(prefix))
    else:
        model.truncate(0, 0)
        _prefill(model, 0, prefix, chunk)


def _steps(model: Model, seq_id: int, token_ids: list[int], start: int) -> Logits:
    rows = [
        model.forward([Span(seq_id, position, [token_ids[position]], 1, keeps=position == start)])[
            0
        ].copy()
        for position in range(start, start + _NUM_STEPS)
    ]
    return np.stack(rows)


def _mixed_steps(model: Model, token_ids: list[int], foreign: list[int], start: int) -> Logits:
    rows: list[Logits] = []
    position, width = start, 1
    while position < start + _NUM_STEPS:
        right = token_ids[position : min(position + width, start + _NUM_STEPS)]
        wrong = foreign[:2] if model.info.can_take_back else []
        neighbour = model.length(1)
        num_outputs = len(right) + len(wrong)
        spans = [Span(0, position, right + wrong, num_outputs, keeps=True)]
        if len(rows) < _NUM_STEPS // 2:
            spans.insert(0, Span(1, neighbour, foreign[:3], 1, keeps=True))
        elif neighbour:
            model.truncate(1, 0)
        logits = model.forward(spans)
        offset = len(spans) - 1
        rows.extend(row.copy() for row in logits[offset : offset + len(right)])
        position += len(right)
        if model.info.can_take_back:
            model.truncate(0, position)
            if len(spans) == 2:
                model.truncate(1, neighbour + 1)
        width = width % 4 + 1
    return np.stack(rows)


def probe_digest(model: Model, seed: int) -> str:
    """Returns 64 hex digits of the logits after each of 32 tokens and of the tokens sampled there.

    seed: 0 to 2^63 - 1. Sequence 0 must be empty, and is empty at the end. All versions draw the
    same tokens. Their number in a pass may differ, because exact engines compute the same bits.
    """
    info = model.info
    num_tokens = min(_NUM_PROBED, info.num_cells)
    token_ids = drawn_ids(seed, num_tokens, info.num_vocab)
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed)
    digest = hashlib.sha256()
    sampled: list[int] = []
    try:
        for start in range(0, num_tokens, info.max_batch_tokens):
            piece = token_ids[start : start + info.max_batch_tokens]
            rows = model.forward([Span(0, start, piece, len(piece))])
            digest.update(rows.astype("<f4").tobytes())
            sampled += [sample(row, sampling, start + place + 1) for place, row in enumerate(rows)]
    except (InvalidInputError, StreamError):
        # The model does not accept every text, or its logits are not numbers. Its own hashes
        # identify its answers.
        digest.update(repr((seed, info.model_hash, info.numerics_class)).encode())
    finally:
        model.truncate(0, 0)
    digest.update(repr(sampled).encode())
    return digest.hexdigest()
