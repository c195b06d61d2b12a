"""Measures the times of passes on this device once, and keeps them with the self-test's result."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from airdraft.mesh.json_form import from_object
from airdraft.mesh.whole_files import write_whole
from airdraft.nodes.engine.cores import this_device
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import EngineInfo, Sequences, Span
from airdraft.nodes.engine.selftest import SelfTest, fitting_prefixes
from airdraft.policies.latency import CostTable, NodeCosts

DECODE_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
PREFILL_SIZES = (32, 64)
# The user who starts a large model waits for its first token. If a pass of one token takes longer
# than this, fewer sizes are measured, and the others are learnt from the passes of requests. So is
# the cost of cells: its measurement needs hundreds of cells, and filling these takes ten seconds.
_SLOW_S = 0.02
_FEW_DECODE_SIZES = (1, 2, 4, 8, 16)
_FEW_PREFILL_SIZES = (32,)
# Each shape of a pass is timed once in every round, and its least time counts: whatever else the
# machine does can only make a pass slower, and does so to all shapes alike. No round begins once
# the rounds have taken _ENOUGH_S, because somebody waits for the model.
_ROUNDS = 4
_ENOUGH_S = 1.0
# The cells that are filled to measure their cost, and about how long this may take.
_NUM_CELLS, _LEAST_CELLS = 512, 64
_FILLING_S = 1.0
# A stored calibration is measured again if a pass of so many tokens takes less than this share of
# its time. Such a pass takes hardly longer than one of a single token. Times on a quiet machine
# scatter by some 10 %.
_PROBED_TOKENS = 4
_MUCH_FASTER = 0.8
_FORMAT = 10

Progress = Callable[[str, int, int | None], None]


def calibrate(model: Sequences, *, progress: Progress | None = None) -> NodeCosts:
    """Time passes of one sequence by size, and the cost of cells. The cache is empty at the end.

    The cost of a token does not depend on the sequence that it belongs to: a draft step of b
    sequences is a pass of b tokens. For a slow model fewer sizes are timed, and no cells. Nor are
    cells timed for a model that cannot take guesses back.
    """
    most = model.info.max_batch_tokens
    _time_pass(model, 0, 1, True)
    is_slow = min(_time_pass(model, 0, 1, True) for _ in range(2)) > _SLOW_S
    sizes = [n for n in (_FEW_DECODE_SIZES if is_slow else DECODE_SIZES) if n <= most]
    prefill_sizes = [n for n in (_FEW_PREFILL_SIZES if is_slow else PREFILL_SIZES) if n <= most]
    prefill_sizes = prefill_sizes or sizes[-1:]
    shapes = [(n, True) for n in sizes] + [(n, False) for n in prefill_sizes]
    least = dict.fromkeys(shapes, math.inf)
    # With snapshots a sequence keeps at least one token of a pass.
    can_repeat = model.info.can_take_back and not model.info.num_snapshots
    times_cells = not is_slow and can_repeat
    total = len(shapes) + times_cells
    spent_s = 0.0
    for number in range(_ROUNDS):
        if spent_s >= _ENOUGH_S:
            break
        for done, shape in enumerate(shapes, 1):
            seconds = _time_pass(model, 0, *shape)
            spent_s += seconds
            least[shape] = min(least[shape], seconds)
            if progress is not None and number == 0:
                progress("calibrating", done, total)
    decode = _rising([least[n, True] for n in sizes])
    prefill = _rising([least[n, False] for n in prefill_sizes])
    per_cells = 0.0, 0.0
    if times_cells:
        per_token_s = prefill[-1] / prefill_sizes[-1]
        affordable = max(_LEAST_CELLS, min(_NUM_CELLS, int(_FILLING_S / per_token_s)))
        per_cells = _per_cells(model, min(affordable, model.info.max_length // 4))
        if progress is not None:
            progress("calibrating", total, total)
    return NodeCosts(
        decode=CostTable(tuple(sizes), tuple(decode), *per_cells),
        prefill=CostTable(tuple(prefill_sizes), tuple(prefill), *per_cells),
    )


def _rising(seconds: Sequence[float]) -> list[float]:
    """Returns times that do not fall: a pass takes at most as long as a larger one was seen to."""
    return list(itertools.accumulate(reversed(seconds), min))[::-1]


def _time_pass(model: Sequences, seq_id: int, num_tokens: int, outputs: bool) -> float:
    base = model.length(seq_id)
    start = time.perf_counter()
    num_outputs = num_tokens if outputs else 0
    model.forward([Span(seq_id, base, [1] * num_tokens, num_outputs, keeps=True)])
    seconds = time.perf_counter() - start
    model.truncate(seq_id, base)
    return seconds


def is_much_faster_now(model: Sequences, costs: NodeCosts) -> bool:
    """Whether a pass takes much less time than when the costs were measured.

    That was on a busy machine then, and the costs would be too high for ever: passes correct only
    the sizes that they have, and guesses that seem to cost too much are never tried. The cache is
    empty before and afterwards.
    """
    return _time_now(model, costs) < _MUCH_FASTER


def as_fast_as_now(model: Sequences, costs: NodeCosts) -> NodeCosts:
    """Returns lower costs if a pass takes much less time now than when they were measured.

    It takes a few passes. So it is for a model that was calibrated beside other work, and whose
    thread has other passes to run. The cache is empty before and afterwards.
    """
    factor = _time_now(model, costs)
    if factor >= _MUCH_FASTER:
        return costs
    return NodeCosts(costs.decode.scaled(factor), costs.prefill.scaled(factor))


def _time_now(model: Sequences, costs: NodeCosts) -> float:
    """Returns the time of a pass now as a multiple of what it costs."""
    num_tokens = min(_PROBED_TOKENS, model.info.max_batch_tokens)
    _time_pass(model, 0, 1, True)
    now_s = min(_time_pass(model, 0, num_tokens, True) for _ in range(2))
    return now_s / costs.decode.at(num_tokens)


def _per_cells(model: Sequences, num_cells: int) -> tuple[float, float]:
    """Returns the seconds that each token of a pass pays for a used cell and for an own cell.

    An own cell is one of the token's sequence. The times come from passes with an empty cache, with
    another sequence in the cache, and of that sequence. The empty cache is timed before and after
    the others, and the longer time counts. Otherwise a machine that becomes busier seems to pay for
    cells: such a calibration predicted 870 ms for passes of 60 ms.
    """
    chunk = model.info.max_batch_tokens
    width = min(8, chunk)

    def least_s(seq_id: int) -> float:
        return min(_time_pass(model, seq_id, width, True) for _ in range(_ROUNDS))

    empty = least_s(0)
    for start in range(0, num_cells, chunk):
        model.forward([Span(1, start, [1] * min(chunk, num_cells - start))])
    foreign, own = least_s(0), least_s(1)
    model.truncate(1, 0)
    empty = max(empty, least_s(0))
    tokens_cells = width * num_cells
    return max(0.0, (foreign - empty) / tokens_cells), max(0.0, (own - foreign) / tokens_cells)


def cache_key(
    info: EngineInfo, config: LlamaConfig, library: str, prefix_lens: tuple[int, ...]
) -> str:
    """Returns the name of a stored calibration: model, build, device, threads and profile.

    library: The hash of the build's files, because builds of one name may differ in speed.
    prefix_lens: Those of the self-test. The result of fewer must not be taken for that of all.
    """
    build = info.numerics_class, library
    # Without our kernels the numerics class is the same for both layouts.
    form = config.num_threads, config.profile, config.repack
    ways = config.takes_back, config.num_snapshots
    probes = fitting_prefixes(info.max_length, prefix_lens)
    parts = (_FORMAT, info.model_hash, *build, this_device(), *form, *ways, probes)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def load_cached(directory: Path, key: str) -> tuple[SelfTest, NodeCosts] | None:
    """Returns a stored self-test and calibration; None if the file is missing or damaged."""
    try:
        data = json.loads((directory / f"{key}.json").read_text(encoding="utf-8"))
        tables = [from_object(CostTable, data.pop(name)) for name in ("decode", "prefill")]
        return from_object(SelfTest, data), NodeCosts(*tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store(directory: Path, key: str, self_test: SelfTest, costs: NodeCosts) -> None:
    """Write a result. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    tables = {"decode": asdict(costs.decode), "prefill": asdict(costs.prefill)}
    data = {**asdict(self_test), **tables}
    write_whole(directory / f"{key}.json", json.dumps(data).encode(), 0o644)
