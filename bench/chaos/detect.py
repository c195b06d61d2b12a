"""`python -m bench chaos detect`: how soon a mesh notices that a process is dead, or back.

Processes are killed, stopped, or their event loop is blocked. What becomes of members is read in
the coordinator's log, what becomes of a coordinator is asked of clients in this process.
"""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any, Final, Literal

import click

from airdraft.nodes.client.client import MeshClient
from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.processes import BLOCK_S
from bench.harness.report import Findings, conclude, head, row
from bench.options import at_least, names_option

# Limits for the time until each fault is noticed.
LIMITS_S: Final = {"killed": 0.2, "stopped": 2.5, "blocked": 2.5}
_WAIT_LIMIT_S = 60.0
_NUM_CLIENTS = 3
HEAD: Final = head(
    *("role", "fault", "times", "noticed p50 s", "max s", "limit s", "back p50 s", "max s")
)


# By role and fault, the seconds from a fault until it was noticed, and from recovery until the
# process was a member.
Seconds = defaultdict[tuple[str, str], list[tuple[float, float]]]


@click.command("detect")
@at_least("--repeats", 20)
@names_option("--over", ("tcp-keys", "ipc", "tcp"), "Transports; tcp has no keys.")
def detect_command(repeats: int, over: list[Any]) -> None:
    """Measure how soon a dead member or coordinator is noticed, and how soon it is back.

    \b
    Example:
      python -m bench chaos detect --repeats 3 --over ipc
    """
    all_found = Findings()
    for link in over:
        click.echo(f"{link}\n{HEAD}")
        for who in ("members", COORDINATOR):
            found = asyncio.run(detect(who, link, repeats))
            click.echo("\n".join(found.lines))
            all_found.faults += found.faults
    conclude(all_found)


async def detect(who: str, over: Literal["tcp-keys", "tcp", "ipc"], repeats: int) -> Findings:
    """Measure members, which all suffer each fault at once, or the coordinator.

    Raises FleetError if a fault is not noticed.
    """
    found, seconds = Findings(), Seconds(list)
    async with (
        fleet(Setup(num_targets=1, num_drafts=1, over=over)) as mesh,
        mesh.clients(_NUM_CLIENTS) as clients,
    ):
        names = [COORDINATOR] if who == COORDINATOR else list(mesh.setup.roles)
        await mesh.wait_for(clients[0])
        for _ in range(repeats):
            for fault in LIMITS_S:
                work = (_strike(mesh, clients, name, fault, seconds) for name in names)
                await asyncio.gather(*work)
    for (role, fault), measured in seconds.items():
        noticed_s, back_s = zip(*measured, strict=True)
        limit_s, most_s = LIMITS_S[fault], max(noticed_s)
        found.lines.append(
            row(
                *(role, fault, len(noticed_s)),
                *(f"{median(noticed_s):.3f}", f"{most_s:.3f}", limit_s),
                *(f"{median(back_s):.2f}", f"{max(back_s):.2f}"),
            )
        )
        if most_s > limit_s:
            found.faults.append(
                f"{over}: a {role} that was {fault} was noticed after {most_s:.2f} s"
            )
    return found


async def _strike(
    mesh: Fleet, clients: Sequence[MeshClient], name: str, fault: str, seconds: Seconds
) -> None:
    if name != COORDINATOR:
        # On a busy machine it may have left for silence by itself, and could not leave again.
        await mesh.wait_joined(name)
    struck_at = mesh.now()
    process = mesh.process(name)
    if fault == "blocked":
        process.signal(signal.SIGUSR2)
    else:
        process.signal(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    noticed_at = await _seen(mesh, clients, name, struck_at, is_in=False)
    if fault == "killed":
        await process.ended.wait()
        await mesh.start(name)
    elif fault == "stopped":
        process.signal(signal.SIGCONT)
    else:
        await asyncio.sleep(struck_at + BLOCK_S - mesh.now())
    there_at = mesh.now()
    back_at = await _seen(mesh, clients, name, struck_at, is_in=True)
    seconds[mesh.roles[name], fault].append((noticed_at - struck_at, back_at - there_at))


async def _seen(
    mesh: Fleet, clients: Sequence[MeshClient], name: str, since: float, *, is_in: bool
) -> float:
    """Returns when a process was in or out; of the clients of a coordinator the last one counts."""
    if name != COORDINATOR:
        return await mesh.wait_changed(name, since, has_left=not is_in, limit_s=_WAIT_LIMIT_S)
    what = f"the coordinator was not {'found again' if is_in else 'missed'}"
    await mesh.until(lambda: all(c.is_joined is is_in for c in clients), _WAIT_LIMIT_S, what)
    return mesh.now()
