"""`python -m bench chaos points`: processes fail at named places while streams run."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import click

from airdraft.nodes.service.runtime import EXIT_CONFIG
from bench.chaos.kills.backdrop import Backdrop, Run, backdrop, run_option
from bench.harness.airdraft import ENGINE_PASS, VARIABLE
from bench.harness.cases import toy_cases
from bench.harness.fleet import CLIENT, COORDINATOR
from bench.harness.history import Tally
from bench.harness.report import conclude, note
from bench.options import at_least, listed

_NUM_CASES = 128
_REACH_LIMIT_S = 120.0
_LOOK_EVERY_S = 0.01
_STOP_S = (0.1, 4.0)
_BREATH_S = (0.2, 1.0)
# One block is shorter than the time after which a member is taken for dead, one is longer.
ACTIONS = ("kill", "kill", "error", "stop", "block:0.3", "block:3")
# A request by which a client reaches its fail points.
_ASKING = ("a mesh", "--max-tokens", "700", "--gamma", "0", "--json")


@dataclass(frozen=True, slots=True)
class Point:
    """A fail point.

    who: a process of the fleet, or the client. most: it fails at the n-th time there, n up to this.
    """

    who: str
    place: str
    most: int = 1


POINTS = (
    *(Point("draft-0", f"send.{name}") for name in ("Hello", "StreamReadyNotice")),
    *(Point("draft-0", f"receive.{name}") for name in ("Welcome", "OpenStreamRequest")),
    Point("draft-0", "receive.CommitNotice", 20),
    Point("draft-0", "send.GuessNotice", 20),
    Point("draft-0", ENGINE_PASS, 20),
    *(Point("target-0", f"send.{name}") for name in ("Hello", "StreamReadyNotice")),
    *(Point("target-0", f"receive.{name}") for name in ("Welcome", "OpenStreamRequest")),
    Point("target-0", "receive.TokenizeRequest"),
    Point("target-0", "receive.GuessNotice", 20),
    Point("target-0", "receive.LeaseRequest", 5),
    Point("target-0", "send.CommitReply", 40),
    Point("target-0", ENGINE_PASS, 40),
    Point(CLIENT, "send.SubmitRequest"),
    Point(CLIENT, "receive.TokensNotice", 40),
    Point(CLIENT, "send.Credit"),
    Point(COORDINATOR, "receive.Hello", 4),
    Point(COORDINATOR, "send.Welcome", 4),
    Point(COORDINATOR, "receive.SubmitRequest", 8),
    Point(COORDINATOR, "send.StartedNotice", 8),
    Point(COORDINATOR, "send.OpenStreamRequest", 8),
    Point(COORDINATOR, "receive.GuessNotice", 40),
    Point(COORDINATOR, "receive.CommitReply", 40),
    Point(COORDINATOR, "send.TokensNotice", 4),
    Point(COORDINATOR, "send.OutputNotice", 20),
    Point(COORDINATOR, "send.FinishedNotice", 4),
)


PLACES = {point.place for point in POINTS}


@click.command("points")
@at_least("--repeats", 20, "Runs of each point.")
@click.option(
    "--points",
    "places",
    type=listed(accepted=lambda: PLACES, or_none=True),
    default="",
    show_default="all",
    help="Only these points, separated by commas.",
)
@run_option(8)
def points_command(run: Run, repeats: int, places: list[str]) -> None:
    """Run every fail point many times: a process dies, stops, hangs or fails at a named place.

    \b
    Example:
      python -m bench chaos points --points send.CommitReply --repeats 6
    """
    points = [point for point in POINTS if not places or point.place in places]
    conclude(asyncio.run(run_points(run, points, repeats)))


async def run_points(
    run: Run, points: Sequence[Point], repeats: int, actions: Sequence[str] = ACTIONS
) -> Tally:
    """Run each point `repeats` times, with the actions in turn.

    Every request is checked. A point that is not reached is a fault, too.
    """
    random = Random(run.seed)
    async with backdrop(run, toy_cases(random, _NUM_CASES)) as scene:
        for point in points:
            for cycle in range(repeats):
                await _fail_once(scene, point, actions[cycle % len(actions)], random)
            note(f"{point.who} {point.place}, {scene.tally.progress()}")
    return scene.tally


async def _fail_once(scene: Backdrop, point: Point, action: str, random: Random) -> None:
    fleet, tally, who = scene.fleet, scene.tally, point.who
    value = f"{point.place}:{action}:{random.randint(1, point.most)}"
    is_client = who == CLIENT
    if not is_client:
        await fleet.kill(who)
    process = await fleet.start(who, *(_ASKING if is_client else ()), environ={VARIABLE: value})
    ends = is_client or action in ("kill", "error")
    if ends:
        fleet.expect_end(who)
    was_stopped = False
    # Ends and stops can be observed; a block cannot, so it is given time.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REACH_LIMIT_S):
            if action == "stop":
                while not was_stopped and process.code is None:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    was_stopped = process.is_stopped
            elif ends:
                await process.ended.wait()
            else:
                await asyncio.sleep(1.0 + float(action.partition(":")[2]))
    if was_stopped:
        await asyncio.sleep(random.uniform(*_STOP_S))
        process.signal(signal.SIGCONT)
    reached = {
        "kill": process.code == -signal.SIGKILL,
        "error": process.code not in (None, 0, EXIT_CONFIG),
        "stop": was_stopped,
    }
    if not reached.get(action, True):
        tally.wrong("not reached", f"{who} {value}: exit code {process.code}")
    tally.disturbances[f"x {action}"] += 1
    if is_client:
        await process.kill()
    elif process.code is not None:
        await fleet.start(who)
    # Some points stop all streams, so give streams time to progress between them.
    await fleet.wait_for(scene.looking)
    await asyncio.sleep(random.uniform(*_BREATH_S))
