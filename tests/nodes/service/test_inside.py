"""A draft model in a target's process: whatever is wrong with it, the target serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from airdraft.nodes.catalog import CatalogError
from airdraft.nodes.config.settings import ConfigError, DraftEngine, TargetConfig, TargetEngine
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.load import Opened, open_toy
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.service.inside import Inside, Ready
from airdraft.nodes.service.roles import run_node
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.turns import Turns
from airdraft.nodes.worker.trial import Trial
from airdraft.policies.acceptance import DraftCalibration
from tests.nodes.builders import make_spec
from tests.nodes.catalog.fakes import gguf_bytes
from tests.nodes.target.script import FLAT, commits_in

Eventually = Callable[..., Awaitable[None]]
GOOD, BAD = "", "it ended the process of its trial (SIGABRT)"


class FakeTrial(Trial):
    """Fails with a reason, or not; or takes until it is stopped."""

    def __init__(self, reason: str | None) -> None:
        super().__init__()
        self._reason, self._stopped = reason, threading.Event()

    def failure(self, settings: DraftEngine) -> str:
        if self._reason is not None:
            return self._reason
        self._stopped.wait(60)
        return "it was stopped"

    def stop(self) -> None:
        self._stopped.set()


class Target:
    """A target whose draft is a file, which the toy of a test stands for.

    Turns are attached at once, between the steps of a test.
    """

    def __init__(self, folder: Path, trial: Trial, draft: ToyModel) -> None:
        self.draft = draft
        model, tokenizer = ToyModel(), ToyTokenizer(96)
        grammars = Grammars(tokenizer.piece, 96, model.info.eog_token_ids)
        settings = TargetEngine(model="target.gguf", draft=str(folder / "draft.gguf"))
        self.inside = Inside(settings, model.info, grammars, trial=trial)
        self.said: list[str] = []
        self.inside.bind(self._attach, lambda model, _why: self.said.append(model))
        self.state = TargetState(model, tokenizer, costs=FLAT)
        self._is_attached = False

    def _attach(self, make: Callable[[], Turns | None]) -> None:
        if (turns := make()) is not None:
            self.state.attach(turns)
            self._is_attached = True

    def is_attached(self) -> bool:
        return self._is_attached

    def is_left_out(self) -> bool:
        return "left out" in self.inside.text

    def decode(self, num_tokens: int, pass_s: float = 0.01) -> int:
        """Decode a stream; returns how many tokens were guesses."""
        self.state.open(make_spec(max_tokens=num_tokens, num_leased=num_tokens))
        num_guessed = 0
        while self.state.has_work():
            num_before = self.draft.num_forward_passes
            commits = commits_in(self.state.step())
            is_step = self.draft.num_forward_passes > num_before
            self.state.passed(0.001 if is_step else pass_s)
            num_guessed += sum(commit.entry.num_in_turns for commit in commits)
        return num_guessed

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It is loaded or left out inside the block, and closed behind it."""
        task = asyncio.create_task(self.inside.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.inside.close()


class Machine:
    """Where targets start one after the other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._patch = monkeypatch.setattr
        (folder / "draft.gguf").write_bytes(gguf_bytes())
        monkeypatch.setenv("AIRDRAFT_CACHE", str(folder / "cache"))

    def target(self, trial: str | None = GOOD, agreement: float = 1.0) -> Target:
        draft = ToyModel(ToyConfig(agreement=agreement))
        self._patch(
            "airdraft.nodes.service.inside.open_engine",
            lambda *_, **__: Opened(draft, ToyTokenizer(96), FLAT),
        )
        return Target(self.folder, FakeTrial(trial), draft)

    @property
    def records(self) -> list[Path]:
        return list((self.folder / "cache/inside").glob("*.json"))

    @property
    def marks(self) -> list[Path]:
        return list((self.folder / "cache/inside").glob("*.mark"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


async def test_a_good_draft_is_attached_and_guesses(
    machine: Machine, eventually: Eventually
) -> None:
    target = machine.target()
    assert "draft.gguf is being loaded" in target.inside.text
    async with target.running():
        await eventually(target.is_attached)
        assert target.decode(100) > 70
        assert "draft.gguf guesses in turns" in target.inside.text
        await eventually(lambda: target.said == ["", "draft.gguf"])
        assert len(machine.marks) == 1
    assert machine.marks == []


async def test_one_that_crashes_is_left_out_and_is_not_tried_at_the_next_start(
    machine: Machine, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    for trial in (BAD, GOOD):
        caplog.clear()
        target = machine.target(trial)
        async with target.running():
            await eventually(target.is_left_out)
            assert target.decode(50) == 0
        # One line names the draft and the file to remove.
        await eventually(lambda: bool(caplog.messages))
        (line,) = caplog.messages
        assert "draft.gguf" in line
        assert "SIGABRT" in line
        assert f"remove {machine.records[0]}" in line
    machine.records[0].unlink()
    target = machine.target(GOOD)
    async with target.running():
        await eventually(target.is_attached)


async def test_a_good_one_is_tried_once(machine: Machine, eventually: Eventually) -> None:
    for trial in (GOOD, BAD):
        target = machine.target(trial)
        async with target.running():
            await eventually(target.is_attached)


async def test_one_that_does_not_pay_gives_its_memory_back_until_the_next_day(
    machine: Machine,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    closed = threading.Event()
    target = machine.target(agreement=0.0)
    monkeypatch.setattr(target.draft, "close", closed.set)
    async with target.running():
        await eventually(target.is_attached)
        for _ in range(6):
            target.decode(1000)
        await eventually(closed.is_set)
        await eventually(lambda: "slow" in machine.records[0].read_text())
        assert target.said == ["", "draft.gguf", ""]
        num_steps = target.draft.num_forward_passes
        target.decode(1000)
        assert target.draft.num_forward_passes == num_steps
    (line,) = [message for message in caplog.messages if "saved" in message]
    assert "% of the time" in line
    caplog.clear()
    target = machine.target()
    async with target.running():
        await eventually(target.is_left_out)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "less than a day ago" in record.getMessage()


async def test_one_that_fails_in_a_step_is_left_out_without_a_record_of_that(
    machine: Machine,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = machine.target()
    async with target.running():
        await eventually(target.is_attached)
        before = target.decode(30)
        assert before > 0

        def fails(_spans: object) -> None:
            raise EngineError("llama_decode failed")

        monkeypatch.setattr(target.draft, "forward", fails)
        assert target.decode(30) == 0
        (line,) = caplog.messages
        assert "it failed: llama_decode failed" in line
    assert "good" in machine.records[0].read_text()


async def test_one_that_cannot_be_opened_is_left_out(
    machine: Machine, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = machine.target()

    def fails(*_: object, **__: object) -> None:
        raise EngineError("no memory")

    monkeypatch.setattr("airdraft.nodes.service.inside.open_engine", fails)
    async with target.running():
        await eventually(lambda: target.inside.text.endswith("left out: no memory"))
    assert machine.marks == []


async def test_a_target_that_stops_while_it_is_tried_leaves_nothing(
    machine: Machine, eventually: Eventually
) -> None:
    target = machine.target(None)
    async with target.running():
        await eventually(lambda: len(machine.marks) == 1)
    await eventually(lambda: not any("loading" in t.name for t in threading.enumerate()))
    assert machine.marks == []
    assert machine.records == []


async def test_a_target_that_stops_while_it_is_opened_closes_it(
    machine: Machine, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_opening, may_go_on, closed = threading.Event(), threading.Event(), threading.Event()
    target = machine.target()

    def opens(*_: object, **__: object) -> Opened:
        is_opening.set()
        may_go_on.wait(60)
        return Opened(target.draft, ToyTokenizer(96), FLAT)

    monkeypatch.setattr("airdraft.nodes.service.inside.open_engine", opens)
    monkeypatch.setattr(target.draft, "close", closed.set)
    async with target.running():
        await eventually(is_opening.is_set)
    assert machine.marks == []
    may_go_on.set()
    await eventually(closed.is_set)
    await eventually(lambda: not any("loading" in t.name for t in threading.enumerate()))
    assert not target.is_attached()


@pytest.mark.parametrize(
    ("model", "draft", "error"),
    [
        ("toy:1", "no-such-model", ConfigError),
        ("toy:1", "toy:2", ConfigError),
        ("target.gguf", "toy:1", ConfigError),
        ("target.gguf", "no-such-model", CatalogError),
    ],
)
async def test_what_is_known_to_be_wrong_ends_the_target_at_once(
    tmp_path: Path, model: str, draft: str, error: type[Exception]
) -> None:
    engine = TargetEngine(model=model, draft=draft)
    config = TargetConfig(connect=f"ipc://{tmp_path}/nobody", engine=engine, join_timeout_s=0.1)
    with pytest.raises(error, match=r"no-such-model|engine\.(draft|model) = "):
        await run_node(config)


def test_an_emulated_draft_of_other_tokens_is_refused() -> None:
    other = open_toy(ToyConfig(num_vocab=50))
    ready = Ready("toy:0.5", other.model, other.costs, DraftCalibration())
    settings = TargetEngine(model="toy:1", draft="toy:0.5")
    grammars = Grammars(ToyTokenizer(96).piece, 96, frozenset({0}))
    with pytest.raises(ConfigError, match="its tokens are others"):
        Inside(settings, ToyModel().info, grammars, ready=ready)
