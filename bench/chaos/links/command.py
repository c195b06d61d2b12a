"""`python -m bench chaos links|cuts|stalls|draftless|toxics`: run meshes over bad links."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar, get_args

import click

from bench.chaos.links import ailing, cuts, draftless, profiles, stalls
from bench.chaos.links.mesh import LinkMeshError
from bench.emulate.open import Means
from bench.emulate.profiles import PROFILES
from bench.emulate.toxics import TOXICS, ToxicCell
from bench.netns import NamespacesError

T = TypeVar("T")

_means = click.option(
    "--means",
    default="tun",
    show_default=True,
    type=click.Choice(get_args(Means)),
    help="tun needs root; the proxy delays lost data instead of losing it.",
)
_seed = click.option("--seed", default=1, show_default=True)


@click.command("links")
@click.option("--profiles", "names", default=",".join(PROFILES), show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Duration of each profile.")
@click.option("--near", default=6, show_default=True, help="Number of streams at the hub.")
@click.option("--far", default=4, show_default=True, help="Number of streams behind the link.")
@_seed
@_means
def links_command(names: str, seconds: float, near: int, far: int, seed: int, means: Means) -> None:
    """EMULATED: check texts, false deaths, stalls and speed with nodes behind bad links.

    \b
    Example:
      python -m bench chaos links --profiles wifi,bad --seconds 60
    """
    chosen = _chosen("--profiles", names, PROFILES)
    setting = profiles.Setting(seconds=seconds, near=near, far=far, seed=seed)
    faults = []
    for number, name in enumerate(chosen):
        figures = _run(profiles.run_profile(PROFILES[name], setting, means))
        if not number:
            click.echo(f"*emulated* ({figures.kind}), seed {seed}\n\n{profiles.HEAD}")
        click.echo(profiles.row(figures))
        faults += figures.faults()
    _end(faults)


@click.command("cuts")
@click.option("--kinds", default=",".join(cuts.KINDS), show_default=True, help="Kinds of cuts.")
@click.option(
    "--times", default=20, show_default=True, type=click.IntRange(min=1), help="Cuts of each kind."
)
@_seed
@_means
def cuts_command(kinds: str, times: int, seed: int, means: Means) -> None:
    """EMULATED: measure how soon a cut link of a draft node is noticed, and how soon it heals.

    \b
    Example:
      python -m bench chaos cuts --kinds blackout --times 5
    """
    chosen = _chosen("--kinds", kinds, cuts.KINDS)
    found = _run(cuts.run_cuts(chosen, times, seed, means, click.echo))
    _end([fault for figures in found for fault in figures.faults()])


@click.command("stalls")
@click.option(
    "--hows", default=",".join(stalls.HOWS), show_default=True, help="Ways to lose a target."
)
@click.option(
    "--times", default=20, show_default=True, type=click.IntRange(min=1), help="Losses by each way."
)
@click.option("--streams", default=8, show_default=True)
@_seed
@_means
def stalls_command(hows: str, times: int, streams: int, seed: int, means: Means) -> None:
    """EMULATED: measure how long clients wait when one of two targets is killed or cut off.

    \b
    Example:
      python -m bench chaos stalls --hows kill --times 5
    """
    chosen = _chosen("--hows", hows, stalls.HOWS)
    found = _run(stalls.run_stalls(chosen, times, streams, seed, means, click.echo))
    _end([fault for figures in found for fault in figures.faults()])


@click.command("draftless")
@click.option(
    "--hows", default=",".join(draftless.HOWS), show_default=True, help="Ways to lose draft nodes."
)
@click.option(
    "--times", default=9, show_default=True, type=click.IntRange(min=1), help="Losses by each way."
)
@click.option("--streams", default=8, show_default=True)
@_seed
@_means
def draftless_command(hows: str, times: int, streams: int, seed: int, means: Means) -> None:
    """EMULATED: measure the speed of streams when all draft nodes are killed or cut off at once.

    \b
    Example:
      python -m bench chaos draftless --hows kill --times 3
    """
    chosen = _chosen("--hows", hows, draftless.HOWS)
    found = _run(draftless.run_draftless(chosen, times, streams, seed, means, click.echo))
    _end([fault for figures in found for fault in figures.faults()])


@click.command("toxics")
@click.option("--toxics", "names", default=",".join(TOXICS), show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Duration of each toxic.")
@_seed
def toxics_command(names: str, seconds: float, seed: int) -> None:
    """EMULATED devices: run them over a TCP proxy that stalls, drips, caps, resets, closes late.

    \b
    Example:
      python -m bench chaos toxics --toxics reset --seconds 20
    """
    chosen = _chosen("--toxics", names, TOXICS)
    click.echo(f"*emulated* devices ({ToxicCell.kind}), seed {seed}\n\n{ailing.HEAD}")
    faults = []
    for name in chosen:
        figures = _run(ailing.run_toxic(TOXICS[name], seconds, seed))
        click.echo(figures.row())
        faults += figures.faults()
    _end(faults)


COMMANDS: Sequence[click.Command] = (
    links_command,
    cuts_command,
    stalls_command,
    draftless_command,
    toxics_command,
)


def _chosen(option: str, names: str, known: Collection[str]) -> list[str]:
    chosen = names.split(",")
    if unknown := [name for name in chosen if name not in known]:
        raise click.UsageError(f"{option}: unknown {unknown[0]!r}; accepted are {', '.join(known)}")
    return chosen


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except NamespacesError as error:
        text = f"{error}; --means proxy needs no namespaces, but loses no packets"
        raise click.ClickException(text) from error
    except (LinkMeshError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _end(faults: Sequence[str]) -> None:
    for fault in faults:
        click.echo(fault, err=True)
    sys.exit(1 if faults else 0)
