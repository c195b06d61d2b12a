"""The paper's model and program as printed: against exhaustive search, and its own limits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from bench.paper.model import Pair, TaskSet, draw, load_setting, stages_of, total_s, upload_s
from bench.paper.program import MemoryLimitError, program_bounds, serve
from bench.paper.report import FIGURES, fewer, run_printed

SETTING = load_setting()
PAIRS = (Pair("llama-68m", "llama-7b"), Pair("llama-1b", "llama-7b"), Pair("llama-1b", "llama-13b"))


def with_room_for(pair, num):
    """Few tasks, and a draft node that holds some of them."""
    draft = SETTING.models[pair.draft]
    cells = num * (SETTING.max_input + SETTING.max_output)
    memory = draft.weight_bytes + cells * draft.cache_bytes
    return replace(SETTING, num_tasks=8, draft_memory_bytes=memory)


def is_allowed(stages, inputs, bounds):
    """Whether each batch is within memory."""
    return all(
        last - first <= stages.most(inputs[first:last].max())
        for first, last in itertools.pairwise(bounds)
    )


def exhaustive_s(stages, inputs):
    """The least time of all ways to cut the tasks."""
    num = len(inputs)
    cuts = (cut for size in range(num) for cut in itertools.combinations(range(1, num), size))
    every = ((0, *cut, num) for cut in cuts)
    return min(total_s(stages, inputs, b) for b in every if is_allowed(stages, inputs, b))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("room", [2, 3, 8])
@pytest.mark.parametrize("length", [1, 4, 10])
def test_both_programs_are_as_good_as_every_way_to_cut(pair, room, length):
    for seed in range(4):
        setting = with_room_for(pair, room)
        inputs = np.sort(draw(setting, seed).inputs)
        stages = stages_of(setting, pair, length)
        best_s = exhaustive_s(stages, inputs)
        # The paper's recursion keeps one way only, which loses nothing in this model.
        for is_exact in (True, False):
            bounds = program_bounds(stages, inputs, is_exact=is_exact)
            assert total_s(stages, inputs, bounds) == pytest.approx(best_s)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("changes", [{}, {"max_input": 1792}, {"max_output": 1024}])
def test_no_scheme_inside_its_order_and_limits_is_better_than_the_program(pair, changes):
    setting = replace(SETTING, num_tasks=30, **changes)
    for seed in range(3):
        inputs = draw(setting, seed).inputs
        best_s = serve(setting, pair, inputs, "joint").seconds
        for scheme in ("fixed-length", "no-batching", "max-batching", "heuristic"):
            assert serve(setting, pair, inputs, scheme).seconds >= best_s * (1 - 1e-12), scheme


def test_batches_are_within_memory_and_a_task_that_does_not_fit_is_told():
    pair = PAIRS[1]
    setting = with_room_for(pair, 2)
    inputs = draw(setting, 0).inputs
    for scheme in ("joint", "max-batching", "heuristic", "static"):
        served = serve(setting, pair, inputs, scheme)
        order = inputs if scheme == "static" else np.sort(inputs)
        assert is_allowed(stages_of(setting, pair, served.length), order, served.bounds)
    setting = with_room_for(pair, 0.5)
    with pytest.raises(MemoryLimitError, match="do not fit the draft node"):
        program_bounds(stages_of(setting, pair, 4), np.array([400]))


def test_two_stages_by_hand():
    """Three batches: draft and target overlap, and the slower one is waited for."""
    setting = replace(SETTING, max_output=1)
    stages = stages_of(setting, PAIRS[0], 2)
    inputs = np.array([10, 20, 30])
    d = [float(stages.draft_s(x, 1)) for x in inputs]
    v = [float(stages.verify_s(x, 1)) for x in inputs]
    assert stages_of(SETTING, PAIRS[0], 10).num == -(
        -SETTING.max_output // sum(SETTING.alpha**k for k in range(11))
    )
    ends = d[0] + v[0]
    ends = max(ends, d[0] + d[1]) + v[1]
    ends = max(ends, sum(d)) + v[2]
    read_s = sum(float(stages.read_s(x, 1)) for x in inputs)
    assert total_s(stages, inputs, (0, 1, 2, 3)) == pytest.approx(read_s + stages.num * ends)
    apart_s = total_s(stages, inputs, (0, 1, 2, 3), has_pipeline=False)
    assert apart_s == pytest.approx(read_s + stages.num * (sum(d) + sum(v)))


def test_bands_that_let_all_end_together_are_the_best_of_all_splits():
    tasks = TaskSet(np.array([100, 300]), np.array([2.0, 5.0]))
    together_s = upload_s(SETTING, tasks)
    for share in np.linspace(0.01, 0.99, 99):
        bits = tasks.inputs * SETTING.bits_a_token
        each_s = bits / (np.array([share, 1 - share]) * SETTING.bandwidth_hz)
        assert together_s <= (each_s / tasks.efficiency).max() * (1 + 1e-12)
    assert together_s <= upload_s(SETTING, tasks, is_uniform=True)


def test_the_report_has_every_figure(tmp_path):
    sweep = {"bits_a_token": (32.0,), "c2_factor": (1.0,)}
    setting = replace(fewer(SETTING), seeds=1, sweep=sweep)
    run_printed(setting, tmp_path, lambda _: None)
    page = (tmp_path / "printed.md").read_text()
    for figure in FIGURES:
        assert f"| {figure.name} | {100 * figure.printed:.1f} % |" in page
    assert "1.00 : 1.97 : 2.42" in page
