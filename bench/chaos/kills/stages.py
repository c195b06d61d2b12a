"""`python -m bench chaos stages`: kill stages of a split model at random while requests run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import click

from airdraft.nodes.catalog.stages import even_cuts
from airdraft.nodes.config.settings import TargetEngine
from airdraft.nodes.service.local import local_mesh
from bench.chaos.kills.backdrop import Run, run_option
from bench.harness.cases import Case, real_cases
from bench.harness.history import Tally
from bench.harness.processes import beside
from bench.harness.report import conclude, note
from bench.harness.work import ask, keep_asking
from bench.options import at_least, model_file, target_option
from bench.rows import stage_files

_NUM_CASES: Final = 24
# From a kill to the next start of the stage.
_AWAY_S: Final = (0.05, 2.0)
_TELL_EVERY: Final = 10


@dataclass(slots=True)
class _Stage:
    """A process that runs a stage, and can be killed."""

    file: Path
    endpoint: str
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        words = "-m", "airdraft", "stage", "-m", str(self.file), "--listen", self.endpoint
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=asyncio.subprocess.DEVNULL
        )

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@contextlib.asynccontextmanager
async def _running(files: Sequence[Path], folder: Path) -> AsyncIterator[list[_Stage]]:
    stages = [_Stage(file, f"ipc://{folder}/{place}") for place, file in enumerate(files)]
    try:
        for stage in stages:
            await stage.start()
        yield stages
    finally:
        for stage in stages:
            await stage.kill()


@click.command("stages")
@at_least("--kills", 100)
@at_least("--into", 3, "Stages, of which the last one is the target.", least=2)
@at_least("--mean-gap-s", 4.0, "Mean time from the start of a stage to the next kill.")
@target_option
@run_option(4)
def stages_command(run: Run, kills: int, into: int, mean_gap_s: float, target: str) -> None:
    """Kill stages of a split model while streams run; exit code 1 if any text is wrong.

    The texts have to be those of the whole model.

    \b
    Example:
      python -m bench chaos stages --kills 20 --into 2
    """
    cases = real_cases(Random(run.seed), _NUM_CASES, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(model_file(target))
        files, _ = stage_files(path, even_cuts(path, into), Path(folder))
        conclude(asyncio.run(_run(run, cases, files, kills, mean_gap_s)))


async def _run(
    run: Run, cases: Sequence[Case], files: Sequence[Path], num_kills: int, mean_gap_s: float
) -> Tally:
    tally, random = Tally(seed=run.seed), Random(run.seed + 1)
    now = asyncio.get_running_loop().time
    *first, last = files

    def tell(line: str) -> None:
        tally.disturbances["end of the target"] += 1
        note(line)

    async with _running(first, last.parent) as stages:
        endpoints = ", ".join(stage.endpoint for stage in stages)
        engine = TargetEngine(model=str(last), across=endpoints, max_streams=run.num_streams)
        async with local_mesh(engine, None, restarts=True, tell=tell) as (_, client):

            async def one(_stream: int, number: int) -> bool:
                record = await ask(client, number, random.choice(cases), run.deadline_s)
                tally.add(record)
                return record.end == "finished"

            is_over, began = asyncio.Event(), now()
            numbers = itertools.takewhile(lambda _: not is_over.is_set(), itertools.count())
            async with beside(keep_asking(one, run.num_streams, numbers)) as (load,):
                for number in range(1, num_kills + 1):
                    await asyncio.sleep(random.expovariate(1 / mean_gap_s))
                    stage = random.choice(stages)
                    await stage.kill()
                    tally.disturbances["stage killed"] += 1
                    await asyncio.sleep(random.uniform(*_AWAY_S))
                    await stage.start()
                    if number % _TELL_EVERY == 0:
                        note(f"{number} kills, {tally.progress()}")
                is_over.set()
                await load
            tally.took_s = now() - began
    if not tally.ends["finished"]:
        tally.wrong("nothing shown", "no request finished")
    return tally
