"""Which engine a config names, and how a node loads it."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_ENTRIES
from airdraft.nodes.config.settings import (
    ConfigError,
    DraftConfig,
    DraftEngine,
    EngineSettings,
    TargetConfig,
    TargetEngine,
)
from airdraft.nodes.engine.load import TOY_COSTS, Opened
from airdraft.nodes.service.roles import run_node
from airdraft.nodes.worker.engines import calibration_of, open_engine
from airdraft.policies.acceptance import DraftCalibration

Eventually = Callable[..., Awaitable[None]]


def opened(model: str) -> Opened:
    return open_engine(EngineSettings(model=model, cells=512, max_streams=3))


def test_a_toy_has_an_agreement_and_the_room_that_it_is_given() -> None:
    toy = opened("toy:0.8")
    config = toy.model.config
    assert (config.agreement, config.pass_s) == (0.8, 0.0)
    assert (config.num_cells, config.max_sequences) == (512, 3)
    assert toy.costs == TOY_COSTS
    assert calibration_of(toy.model) == DraftCalibration()


def test_a_toy_with_a_pace_says_what_its_passes_cost_and_is_the_same_model() -> None:
    toy = opened("toy:0.8@2.5ms")
    assert toy.model.config.pass_s == 0.0025
    assert toy.costs.decode.at(1) == pytest.approx(0.0025, rel=0.1)
    # However many tokens are in it: the pace is that of passes.
    assert toy.costs.decode.at(32) < 2 * 0.0025
    assert toy.costs.prefill.at(1) == pytest.approx(toy.costs.prefill.at(32))
    assert toy.model.info == opened("toy:0.8").model.info


@pytest.mark.parametrize(
    "model",
    [
        *("toy:", "toy:x", "toy:1.1", "toy:-0.1", "toy:nan"),
        *("toy:1@", "toy:1@5", "toy:1@ms", "toy:1@5s", "toy:1@5ms@5ms"),
        *("toy:1@0ms", "toy:1@-1ms", "toy:1@nanms", "toy:1@infms", "toy:1@10001ms"),
    ],
)
def test_a_toy_that_there_is_not_is_one_line(model: str) -> None:
    with pytest.raises(
        ConfigError, match=r"toy:0 to toy:1 is accepted, .* toy:0\.8@5ms$"
    ) as caught:
        opened(model)
    assert f"engine.model = {model!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_thread_that_loads_a_model_ends_with_it(
    tmp_path: Path, eventually: Eventually
) -> None:
    """Helpers that libgomp gave it for passes would make those of the engine's thread sleep."""
    config = TargetConfig(connect=f"ipc://{tmp_path}/nobody", engine=TargetEngine(model="toy:1"))
    before = {thread.name for thread in threading.enumerate()}
    serving = asyncio.create_task(run_node(config))

    def added() -> set[str]:
        return {thread.name for thread in threading.enumerate()} - before

    await eventually(lambda: added() == {"engine", "masks", "masks apart"})
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_draft_model_that_cannot_take_guesses_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node would end at its first wrong guess."""
    recurrent = opened("toy:1")
    recurrent.model.info = replace(recurrent.model.info, can_cut=False, can_take_back=False)
    monkeypatch.setattr("airdraft.nodes.service.roles.open_engine", lambda *_, **__: recurrent)
    engine = DraftEngine(model="mamba.gguf")
    with pytest.raises(ConfigError, match=r"engine\.model = 'mamba\.gguf': this model cannot"):
        await run_node(
            DraftConfig(connect=f"ipc://{tmp_path}/nobody", engine=engine, join_timeout_s=0.1)
        )


def test_more_threads_than_cpus_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They would wait for one another in every pass."""
    monkeypatch.setattr("airdraft.nodes.worker.engines.open_model", lambda *_, **__: None)
    source = DEFAULT_ENTRIES[DEFAULT_DRAFT].source
    num_cpus = len(os.sched_getaffinity(0))
    for threads, num_warnings in ((0, 0), (num_cpus, 0), (num_cpus + 1, 1)):
        open_engine(EngineSettings(model=str(source.path), threads=threads))
        assert len(caplog.messages) == num_warnings
