"""`python -m bench chaos`: check how a mesh of real processes behaves under faults."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from bench.emulate.open import Means
from bench.emulate.profiles import PROFILES
from bench.emulate.toxics import TOXICS
from bench.harness.report import Findings, conclude, note
from bench.netns import NamespacesError
from bench.options import Decorator, at_least, listed, names_option, seed_option

if TYPE_CHECKING:
    from bench.chaos.kills.backdrop import Run

T = TypeVar("T")
ROLES = ("draft", "target", "coordinator")
RESTARTED = ("draft", "target", "gateway", "coordinator")
HOWS = ("kill", "cut")
# Time without any free file.
_STARVED_S = 6.0
SCENES = ("full", "read-only", "stderr", "coordinator-files", "gateway-files", "clocks")


@click.group("chaos")
def chaos() -> None:
    """Run real processes under kills, stops and fail points, and check every request.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """
    # Here coordinators are lost on purpose: warnings about it would hide the output.
    logging.basicConfig(level=logging.ERROR)


def _with_run(num_streams: int) -> Decorator:
    """Return the options of all commands that send requests while processes end, as a Run."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run_command(streams: int, seed: int, **others: Any) -> None:
            from bench.chaos.kills.backdrop import Run

            command(Run(seed=seed, num_streams=streams, tell=note), **others)

        return at_least("--streams", num_streams)(seed_option(run_command))

    return decorated


def _links_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all commands over emulated links."""
    means = click.option(
        "--means",
        default="tun",
        show_default=True,
        type=click.Choice(get_args(Means)),
        help="tun needs root; the proxy delays lost data instead of losing it.",
    )
    return click.option("--seed", default=1, show_default=True)(means(function))


def _places() -> set[str]:
    from bench.chaos.kills.points import POINTS

    return {point.place for point in POINTS}


@chaos.command("kills")
@at_least("--kills", 1000)
@click.option(
    "--requests",
    type=click.IntRange(1),
    help="Send so many requests, and short ones, however many kills these take.",
)
@names_option("--roles", ROLES, "Roles whose processes are killed or stopped.")
@click.option("--mean-gap-s", default=0.25, show_default=True, help="Mean time between two faults.")
@click.option("--real", is_flag=True, help="Use SmolLM2 and its draft instead of toy models.")
@_with_run(16)
def kills_command(
    run: Run, kills: int, requests: int | None, roles: list[str], mean_gap_s: float, *, real: bool
) -> None:
    """Kill and stop processes at random while streams run; exit code 1 if any text is wrong.

    Half of the stopped processes go on by themselves, some of them after they were taken for dead.

    \b
    Examples:
      python -m bench chaos kills --kills 200 --roles coordinator --seed 7
      python -m bench chaos kills --requests 100000 --streams 64 --mean-gap-s 1
    """
    from bench.chaos.kills.storm import run_storm
    from bench.harness.cases import real_cases, toy_cases
    from bench.harness.fleet import Setup
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

    drawing = Random(run.seed + 2)
    if real:
        cases = real_cases(drawing, 24)
        run = replace(run, setup=Setup(target_model=DEFAULT_TARGET, draft_model=DEFAULT_DRAFT))
    else:
        cases = toy_cases(drawing, 256) if requests is None else toy_cases(drawing, 512, 4.0)
    num_kills = kills if requests is None else float("inf")
    run = replace(run, num_requests=requests)
    conclude(
        asyncio.run(run_storm(run, cases, num_kills=num_kills, roles=roles, mean_gap_s=mean_gap_s))
    )


@chaos.command("points")
@at_least("--repeats", 20, "Runs of each point.")
@click.option(
    "--points",
    "places",
    type=listed(accepted=_places),
    default="",
    help="Only these points, separated by commas.",
)
@_with_run(8)
def points_command(run: Run, repeats: int, places: list[str]) -> None:
    """Run every fail point many times: a process dies, stops, hangs or fails at a named place.

    \b
    Example:
      python -m bench chaos points --points send.CommitReply --repeats 6
    """
    from bench.chaos.kills.points import POINTS, run_points

    points = [point for point in POINTS if not places or point.place in places]
    conclude(asyncio.run(run_points(run, points, repeats)))


@chaos.command("rolling")
@at_least("--rounds", 100)
@names_option("--roles", RESTARTED, "Roles to restart; each round restarts one process of each.")
@_with_run(8)
def rolling_command(run: Run, rounds: int, roles: list[str]) -> None:
    """Restart every role by SIGTERM under load; every text must be whole and without error.

    The mesh has two targets, a draft node and two gateways with toy engines. Clients that are cut
    off continue at the other gateway with Idempotency-Key and Last-Event-ID.

    \b
    Example:
      python -m bench chaos rolling --rounds 5 --roles draft,target,gateway
    """
    from bench.chaos.kills.rolling import run_rolling

    conclude(asyncio.run(run_rolling(run, rounds, roles)))


@chaos.command("detect")
@at_least("--repeats", 20)
@names_option("--over", ("tcp-keys", "ipc", "tcp"), "Transports; tcp has no keys.")
def detect_command(repeats: int, over: list[Any]) -> None:
    """Measure how soon a dead member or coordinator is noticed, and how soon it is back.

    \b
    Example:
      python -m bench chaos detect --repeats 3 --over ipc
    """
    from bench.chaos.detect import HEAD, detect

    all_found = Findings()
    for link in over:
        click.echo(f"{link}\n{HEAD}")
        for who in ("members", "coordinator"):
            found = asyncio.run(detect(who, link, repeats))
            click.echo("\n".join(found.lines))
            all_found.faults += found.faults
    conclude(all_found)


@chaos.command("links")
@names_option("--profiles", (*PROFILES, *TOXICS), "Kinds of links.")
@click.option("--seconds", default=60.0, show_default=True, help="Duration of each profile.")
@_links_options
def links_command(profiles: list[str], seconds: float, seed: int, means: Means) -> None:
    """EMULATED: check texts, deaths, outages, stalls and speed with nodes behind bad links.

    Links lose packets, are cut for a while, or run over a TCP proxy that stalls, drips, caps,
    resets or closes late. Devices are emulated, too.

    \b
    Example:
      python -m bench chaos links --profiles wifi,bad,reset --seconds 60
    """
    from bench.chaos.links.profiles import HEAD, Setting, run_profile
    from bench.chaos.links.toxics import run_toxic

    setting, found = Setting(seconds=seconds, seed=seed), Findings()
    kind = ""
    for name in profiles:
        if name in TOXICS:
            figures = _emulated(run_toxic(TOXICS[name], setting))
        else:
            figures = _emulated(run_profile(PROFILES[name], setting, means))
        if figures.kind != kind:
            kind = figures.kind
            click.echo(f"*emulated* ({kind}), seed {seed}\n\n{HEAD}")
        click.echo(figures.row())
        found.faults += figures.faults()
    conclude(found)


@chaos.command("stalls")
@names_option("--hows", HOWS, "Ways to lose a target.")
@at_least("--times", 20, "Losses by each way.")
@at_least("--streams", 8)
@_links_options
def stalls_command(hows: list[str], times: int, streams: int, seed: int, means: Means) -> None:
    """EMULATED: measure how long clients wait when one of two targets is killed or cut off.

    \b
    Example:
      python -m bench chaos stalls --hows kill --times 5
    """
    from bench.chaos.links.stalls import run_stalls

    found = _emulated(run_stalls(hows, times, streams, seed, means, click.echo))
    conclude(Findings(faults=[fault for each in found for fault in each.faults]))


def _emulated(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except NamespacesError as error:
        text = f"{error}; --means proxy needs no namespaces, but loses no packets"
        raise click.ClickException(text) from error


@chaos.command("soak")
@at_least("--requests", 100_000)
@at_least("--first", 10_000, "Requests before the first measurement.")
@at_least("--at-once", 16, "Concurrent requests.")
@seed_option
def soak_command(requests: int, first: int, at_once: int, seed: int) -> None:
    """Send short requests of every kind; check memory, files, threads and tasks of each process.

    \b
    Example:
      python -m bench chaos soak --requests 2000 --first 500
    """
    from bench.chaos.endurance.soak import run_soak

    first = min(first, requests)
    conclude(asyncio.run(run_soak(requests, first, at_once=at_once, seed=seed, tell=note)))


@chaos.command("scarce")
@names_option("--scenes", SCENES, "What is scarce or faulty.")
def scarce_command(scenes: list[str]) -> None:
    """Run meshes whose disk, standard error, open files or clocks are scarce or faulty.

    State and log lie on a full or a read-only disk (needs root). Standard error takes nothing. A
    coordinator or a gateway gets more connections than it has files. Monotonic clocks differ by
    days (needs root) and wall clocks jump (needs cc).

    \b
    Example:
      python -m bench chaos scarce --scenes full,coordinator-files
    """
    from bench.chaos.endurance import disk
    from bench.chaos.endurance.clocks import run_clocks
    from bench.chaos.endurance.fds import coordinator_starved, gateway_starved

    found: list[Findings] = []
    for name in scenes:
        if name == "coordinator-files":
            found.append(asyncio.run(coordinator_starved(64, _STARVED_S)))
        elif name == "gateway-files":
            found.append(asyncio.run(gateway_starved(128, 200, _STARVED_S)))
        elif name == "clocks":
            found.append(asyncio.run(run_clocks()))
        else:
            found.append(disk.run_disk(name))
    conclude(*found)
