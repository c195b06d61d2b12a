"""Opens a draft model in a target's process while the target serves, and lets it end nothing.

Its file is tried in a process of its own first. A record on this machine says how it has done
before. Whatever goes wrong, the target serves without it and says so in one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from airdraft.nodes.catalog import default_cache_dir
from airdraft.nodes.config.settings import ConfigError, DraftEngine, TargetEngine
from airdraft.nodes.config.sources import environment
from airdraft.nodes.draft.output_limit import OutputLimit, output_limit
from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.calibrate import as_fast_as_now, calibrate
from airdraft.nodes.engine.cores import this_device
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.head import HeadModel
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import library_hash
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Sequences
from airdraft.nodes.service.runtime import in_loading_thread
from airdraft.nodes.target.turns import Turns
from airdraft.nodes.worker.engines import (
    calibration_of,
    checked_model,
    draft_for,
    open_engine,
    opened_inside,
)
from airdraft.nodes.worker.inside_record import InsideRecord, key_of
from airdraft.nodes.worker.trial import Trial
from airdraft.policies.acceptance import DraftCalibration
from airdraft.policies.latency import NodeCosts

logger = logging.getLogger(__name__)

# The loading thread and the trial yield to the engine's threads: with 10 they get a tenth of a core
# that these want.
_NICENESS: Final = 10
# The longest time for which this thread keeps Python's lock while the engine's thread wants it. Of
# passes of 11 to 22 ms beside loading the longest took 54, 137 and 237 ms with Python's 5 ms, and
# 65, 36 and 27 ms with this (SmolLM2 on two busy cores of an Intel Xeon, 2026-12-02).
_SWITCH_S: Final = 0.0005
# Between two looks at what the draft saves, which is said if it has changed.
_TELL_EVERY_S: Final = 10.0
# A notice holds 1,024 bytes of a reason.
_MOST_CHARS: Final = 250


@dataclass(frozen=True, slots=True)
class Ready:
    """A draft that guesses, and what its guesses need.

    follow: called before its steps with a stream's sequence in it, and in the target; or None.
    record: marks its work, if that could end the process.
    """

    name: str
    model: Sequences
    costs: NodeCosts
    calibration: DraftCalibration
    limit: OutputLimit | None = None
    follow: Callable[[int, int], None] | None = None
    record: InsideRecord | None = None


def head_of(model: LlamaModel, folder: Path | None = None) -> Ready | None:
    """Returns the head of a target's own file; None if it fails, or has failed or not paid before.

    folder: of records of how drafts inside targets have done; None to keep none.
    """
    record = None
    try:
        if folder is not None:
            build = library_hash(), this_device()
            record = InsideRecord(folder, key_of("head", model.info.model_hash, *build))
            if record.state not in ("untried", "good"):
                record.release()
                logger.info("the head of %s is left out: %s", model.info.model, record.reason)
                return None
        with record or contextlib.nullcontext():
            head = HeadModel(model)
            costs = calibrate(head)
    except (EngineError, OSError) as error:
        logger.warning("the head of %s is left out: %s", model.info.model, error)
        return None
    limit = OutputLimit(head.info.num_vocab, head.limit_output)
    return Ready("in its own file", head, costs, DraftCalibration(), limit, head.follow, record)


class Inside:
    """The draft model of one target, from the trial of its file to its end.

    ready: the draft, if it is no file of its own. There is nothing to be tried then, nor a record.
    """

    def __init__(
        self,
        settings: TargetEngine,
        target: EngineInfo,
        grammars: Grammars,
        *,
        ready: Ready | None = None,
        trial: Trial | None = None,
    ) -> None:
        """settings, target, grammars: those of the target. Raises ConfigError for an emulated draft
        with other tokens."""
        if ready is not None and ready.model.info.vocab_hash != target.vocab_hash:
            raise ConfigError(f"engine.draft = {settings.draft!r}: its tokens are others")
        self._settings, self._target, self._grammars = draft_for(settings), target, grammars
        self._ready = ready
        self._trial = trial or Trial()
        file = self._settings.model if self._settings is not None else ""
        self._name = ready.name if ready is not None else Path(file).name
        self._text, self._reason = "is being loaded", ""
        self._attach: Callable[[Callable[[], Turns | None]], None] = lambda _make: None
        self._say: Callable[[str, str], None] = lambda _model, _why: None
        self._told = ""
        # Guards the four below: the loading thread may still run when all else has ended.
        self._lock = threading.Lock()
        self._record = ready.record if ready is not None else None
        # What was opened, to be closed in the end.
        self._opened: Sequences | None = ready.model if ready is not None else None
        self._is_over = False
        self._turns: Turns | None = None
        # Whether the draft did not pay, and whether the engine's thread needs it no longer.
        self._is_slow = False
        self._was_dropped = asyncio.Event()

    def bind(
        self, attach: Callable[[Callable[[], Turns | None]], None], say: Callable[[str, str], None]
    ) -> None:
        self._attach, self._say = attach, say

    @property
    def text(self) -> str:
        """What was chosen of the draft and why."""
        turns, text = self._turns, self._text
        if turns is not None and turns.savings.has_been_tried:
            text += f", which saves {turns.savings.share:.0%} of the time"
        return f"the draft model {self._name} {text}"

    async def run(self) -> None:
        """Load and attach the draft, say what becomes of it, and keep what is found of it."""
        self._tell()
        if await in_loading_thread(self._load):
            self._attach(partial(self._make, asyncio.get_running_loop()))
        while not self._was_dropped.is_set():
            self._tell()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._was_dropped.wait(), _TELL_EVERY_S)
        self._tell()
        await asyncio.to_thread(self._clean_up)

    def _tell(self) -> None:
        if (text := self.text[:_MOST_CHARS]) != self._told:
            self._told = text
            self._say(self._name if self._turns is not None else "", text)

    def _clean_up(self) -> None:
        """Free a dropped draft and keep why. Both would hold up passes in the engine's thread:
        freeing SmolLM2's draft took 28 to 42 ms on a busy machine, more than a pass.
        """
        self._free()
        record = self._record
        if self._is_slow and record is not None:
            try:
                record.store("slow", self._reason)
            except OSError as error:
                logger.warning("%s cannot be kept for the next start: %s", record.path, error)

    def release(self) -> None:
        """Note that the process ends, which is then no fault of the draft."""
        with self._lock:
            self._is_over = True
            if self._record is not None:
                self._record.release()

    def close(self) -> None:
        """End the trial and free the model. No thread may run its passes any longer."""
        self.release()
        self._trial.stop()
        self._free()

    # -- in the loading thread ---------------------------------------------------------------------

    def _load(self) -> bool:
        """Open the draft; returns whether it can be attached."""
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            with _short_switches():
                reason = self._open()
        except Exception as error:
            # Whatever it is, the target serves without the draft.
            logger.debug("the draft cannot be opened", exc_info=True)
            reason = str(error) or type(error).__name__
        if reason:
            is_news = self._record is None or self._record.state != "slow"
            self._leave_out(reason, logging.WARNING if is_news else logging.INFO)
        return not reason

    def _open(self) -> str:
        """Open the draft; returns why it is left out, or ""."""
        wanted = self._settings
        if self._ready is not None or wanted is None:
            return ""
        record = self._recorded(wanted)
        state, reason = record.state, record.reason
        if state == "slow":
            return f"{reason} less than a day ago"
        if state == "untried":
            if reason := self._trial.failure(wanted):
                if not self._is_over:
                    record.store("bad", reason)
                return f"{reason}; remove {record.path} to have it tried again"
            record.store("good")
        elif state != "good":
            return f"{reason}; remove {record.path} to have it tried again"
        with record:
            opened = open_engine(wanted, is_draft=True)
            try:
                model: Sequences = opened.model
                if opened.model.info.vocab_hash != self._target.vocab_hash:
                    model = opened_inside(opened, wanted)
            except BaseException:
                opened.model.close()
                raise
        limit = output_limit(opened, model)
        calibration = calibration_of(opened.model)
        with self._lock:
            if self._is_over:
                opened.model.close()
            else:
                self._opened = opened.model
                self._ready = Ready(self._name, model, opened.costs, calibration, limit)
        return ""

    def _recorded(self, wanted: DraftEngine) -> InsideRecord:
        """Returns the record. Raises OSError or CatalogError."""
        cache = default_cache_dir(environment())
        _, model_hash = checked_model(wanted, cache)
        numbers = wanted.threads, wanted.gpu_layers, wanted.cells, wanted.max_streams
        build = library_hash(), this_device()
        key = key_of(model_hash, self._target.model_hash, *build, wanted.weights, *numbers)
        record = InsideRecord(cache / "inside", key)
        with self._lock:
            self._record = record
            if self._is_over:
                record.release()
        return record

    def _leave_out(self, reason: str, level: int = logging.WARNING) -> None:
        self._text, self._reason = f"is left out: {reason}", reason
        if not self._is_over:
            logger.log(level, "%s", self.text)

    # -- in the engine's thread --------------------------------------------------------------------

    def _make(self, loop: asyncio.AbstractEventLoop) -> Turns | None:
        """Returns the guesses of the draft; None if it fails now."""
        ready, opened = self._ready, self._opened
        assert ready is not None
        assert opened is not None
        at_work = self._record or contextlib.nullcontext()
        costs = ready.costs
        try:
            if self._record is not None:
                with at_work:
                    # It may have been calibrated beside the passes of this target.
                    costs = as_fast_as_now(opened, costs)
        except EngineError as error:
            self._dropped(loop, str(error))
            return None
        draft = DraftState(ready.model, ready.calibration, self._grammars, ready.limit)
        dropped = partial(self._dropped, loop)
        self._turns = Turns(draft, costs, at_work, dropped, ready.follow)
        self._text = "guesses in turns with passes"
        logger.info("%s", self.text)
        loop.call_soon_threadsafe(self._tell)
        return self._turns

    def _dropped(self, loop: asyncio.AbstractEventLoop, error: str) -> None:
        turns, self._turns = self._turns, None
        if error or turns is None:
            self._leave_out(f"it failed: {error}")
        else:
            self._is_slow = True
            share, num_tokens = turns.savings.share, turns.savings.num_tokens
            reason = f"it saved {share:.1%} of the time of {num_tokens:.0f} tokens"
            self._leave_out(reason, logging.INFO)
        with contextlib.suppress(RuntimeError):
            # The loop is closed if the process is ending.
            loop.call_soon_threadsafe(self._was_dropped.set)

    def _free(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = self._ready = None


@contextlib.contextmanager
def _short_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
