"""What an engine costs, on a toy of which nothing is real but that it counts its cells."""

from __future__ import annotations

import numpy as np
import pytest

from bench.engine.suite import Measured, cells, table
from bench.engine.timing import (
    KINDS,
    PASS_SIZES,
    STEP_SIZES,
    Timed,
    decode_tokens_per_s,
    measure,
    prompt_s,
)
from bench.results.making import BARE
from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyConfig, ToyModel


def made() -> Measured:
    timed = [
        Timed("pass of 4 tokens", 4, (0.01, 0.02, 0.04), 0.025),
        Timed("step of 16 sequences", 16, (0.08, 0.08), 0.07),
        Timed("sampling of 16 rows, greedy", 16, (0.004,), is_pass=False),
        Timed("prompt of 64 tokens", 64, (0.5,)),
    ]
    pairs = {"one stream": ((100.0, 95.0), (90.0, 90.0))}
    return Measured("a-model", "exact", 256, tuple(timed), pairs)


def test_all_kinds_of_work_are_timed_and_leave_the_cache_empty() -> None:
    model = ToyModel(ToyConfig(num_cells=512))
    found = measure(model, TOY_COSTS, used_cells=100, prompt_tokens=300, repeats=2)
    passes = [f"pass of {n} token{'s' if n > 1 else ''}" for n in PASS_SIZES]
    steps = [f"step of {n} sequence{'s' if n > 1 else ''}" for n in STEP_SIZES]
    sampling = [f"sampling of 16 rows, {kind}" for kind in KINDS]
    assert [t.what for t in found] == [*passes, *steps, *sampling, "prompt of 300 tokens"]
    for timed in found:
        assert len(timed.seconds) == 2
        assert min(timed.seconds) > 0
        assert timed.is_pass != ("sampling" in timed.what)
        assert (timed.calibrated_s > 0) == timed.what.startswith(("pass", "step"))
    assert [t.calibrated_s for t in found[:6]] == pytest.approx(
        [TOY_COSTS.decode.at(n) for n in PASS_SIZES]
    )
    assert model.free_cells() == 512


def test_a_cache_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="300 cells are needed, the cache has 256"):
        measure(ToyModel(ToyConfig(num_cells=256)), TOY_COSTS, 16, prompt_tokens=300, repeats=1)


def test_what_the_bare_loop_does_is_done_with_an_engine() -> None:
    model = ToyModel()
    assert decode_tokens_per_s(model, 20) > 0
    assert prompt_s(model, np.arange(1, 90).tolist()) > 0
    assert model.free_cells() == model.info.num_cells


def test_cells_have_time_rate_calibration_and_share_of_a_step() -> None:
    first, _, sampling, prompt, pair = cells([made()])
    assert (first.place, first.system) == ("pass of 4 tokens, 256 used cells", "a-model, exact")
    values = {value.metric: value for value in first.values}
    assert values["time"].value == 0.02
    assert values["tokens/s"].value == pytest.approx(200.0)
    assert values["tokens/s"].high == pytest.approx(400.0)
    assert values["calibrated"].value == 0.025
    assert values["of a step of 16"].value == pytest.approx(0.25)
    # Drawing tokens is no pass: a rate of it would stand beside rates of another kind.
    assert {value.metric for value in sampling.values} == {"time", "of a step of 16"}
    assert prompt.place == "prompt of 64 tokens"
    assert (pair.place, pair.reference) == ("one stream", BARE)
    assert pair.ratios[0].value == pytest.approx(0.975)


def test_the_table_has_a_line_for_each() -> None:
    lines = table([made()]).splitlines()
    assert len(lines) == 2 + 4 + 1 + 2 + 1
    assert lines[2].startswith("| a-model, exact | 256 | pass of 4 tokens | 20.00 (10.00 to 40.00)")
    assert "| one stream | 95.0 | 92.5 | 0.975 (" in lines[-1]
