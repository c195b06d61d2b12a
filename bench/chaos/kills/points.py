"""Run each fail point many times: a process fails at a named place while streams run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from bench.chaos.kills.backdrop import Backdrop, Run, backdrop
from bench.harness.airdraft import ENGINE_PASS, VARIABLE
from bench.harness.cases import toy_cases
from bench.harness.fleet import COORDINATOR
from bench.harness.history import Tally
from nodes.service.runtime import EXIT_CONFIG

_NUM_CASES = 128
_REACH_LIMIT_S = 120.0
_STOP_S = (0.1, 4.0)
_BREATH_S = (0.2, 1.0)
# One block is shorter than the time after which a member is taken for dead, one is longer.
ACTIONS = ("kill", "kill", "error", "stop", "block:0.3", "block:3")
# A request by which a client reaches its fail points.
_ASKING = ("generate", "--prompt", "a mesh", "--max-tokens", "700", "--gamma", "0", "--json")


@dataclass(frozen=True, slots=True)
class Point:
    """A fail point.

    who: a process of the fleet, or client. most: it fails at the n-th time there, n up to this.
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
    Point("client", "send.SubmitRequest"),
    Point("client", "receive.TokensNotice", 40),
    Point("client", "send.Credit"),
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


async def run_points(
    run: Run, points: Sequence[Point], repeats: int, actions: Sequence[str] = ACTIONS
) -> Tally:
    """Run each point `repeats` times, with the actions in turn.

    Every request is checked. A point that is not reached is a fault, too.
    """
    random = Random(run.seed)
    async with backdrop(run, toy_cases(random, _NUM_CASES)) as scene:
        tally = scene.tally
        for point in points:
            for cycle in range(repeats):
                await _fail_once(scene, point, actions[cycle % len(actions)], random)
            run.tell(f"{point.who} {point.place}, {tally.num_requests} requests: {tally.verdict()}")
    return tally


async def _fail_once(scene: Backdrop, point: Point, action: str, random: Random) -> None:
    fleet, tally, who = scene.fleet, scene.tally, point.who
    value = f"{point.place}:{action}:{random.randint(1, point.most)}"
    is_client = who == "client"
    if is_client:
        process = fleet.start_command(who, *_ASKING, environ={VARIABLE: value})
    else:
        await fleet.kill(who)
        process = await fleet.start(who, environ={VARIABLE: value})
    ends = action in ("kill", "error")
    if ends or is_client:
        fleet.expect_end(who)
    was_stopped = False
    # Ends and stops can be observed; a block cannot, so it is given time.
    if action == "stop" and await _until(lambda: process.is_stopped or process.code is not None):
        was_stopped = process.is_stopped
        await asyncio.sleep(random.uniform(*_STOP_S))
        fleet.go_on(who)
    elif ends or is_client:
        await _until(lambda: process.code is not None)
    else:
        await asyncio.sleep(1.0 + float(action.partition(":")[2] or 0.0))
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


async def _until(condition: Callable[[], bool]) -> bool:
    """Return whether the condition came true within the limit."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _REACH_LIMIT_S
    while not condition():
        if loop.time() > give_up_at:
            return False
        await asyncio.sleep(0.01)
    return True
