"""`python -m bench chaos links|stalls|toxics`: run meshes over bad links."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, get_args

import click

from bench.chaos.links import ailing
from bench.chaos.links.mesh import HOWS
from bench.chaos.links.profiles import HEAD, Setting, row_of, run_profile
from bench.chaos.links.stalls import run_stalls
from bench.emulate.open import Means
from bench.emulate.profiles import PROFILES
from bench.emulate.toxics import TOXICS, ToxicCell
from bench.harness.fleet import FleetError
from bench.harness.options import at_least, names_option
from bench.harness.report import Findings, conclude
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
@names_option("--profiles", PROFILES, "Kinds of links.")
@click.option("--seconds", default=60.0, show_default=True, help="Duration of each profile.")
@click.option("--near", default=6, show_default=True, help="Number of streams at the hub.")
@click.option("--far", default=4, show_default=True, help="Number of streams behind the link.")
@_seed
@_means
def links_command(
    profiles: list[str], seconds: float, near: int, far: int, seed: int, means: Means
) -> None:
    """EMULATED: check texts, deaths, outages, stalls and speed with nodes behind bad links.

    \b
    Example:
      python -m bench chaos links --profiles wifi,bad --seconds 60
    """
    setting = Setting(seconds=seconds, near=near, far=far, seed=seed)
    found = Findings()
    for number, name in enumerate(profiles):
        figures = _run(run_profile(PROFILES[name], setting, means))
        if number == 0:
            click.echo(f"*emulated* ({figures.kind}), seed {seed}\n\n{HEAD}")
        click.echo(row_of(figures))
        found.faults += figures.faults()
    conclude(found)


@click.command("stalls")
@names_option("--hows", HOWS, "Ways to lose a target.")
@at_least("--times", 20, "Losses by each way.")
@click.option("--streams", default=8, show_default=True)
@_seed
@_means
def stalls_command(hows: list[str], times: int, streams: int, seed: int, means: Means) -> None:
    """EMULATED: measure how long clients wait when one of two targets is killed or cut off.

    \b
    Example:
      python -m bench chaos stalls --hows kill --times 5
    """
    figures = _run(run_stalls(hows, times, streams, seed, means, click.echo))
    conclude(Findings(faults=[fault for each in figures for fault in each.faults()]))


@click.command("toxics")
@names_option("--toxics", TOXICS, "Kinds of faults.")
@click.option("--seconds", default=60.0, show_default=True, help="Duration of each toxic.")
@_seed
def toxics_command(toxics: list[str], seconds: float, seed: int) -> None:
    """EMULATED devices: run them over a TCP proxy that stalls, drips, caps, resets, closes late.

    \b
    Example:
      python -m bench chaos toxics --toxics reset --seconds 20
    """
    click.echo(f"*emulated* devices ({ToxicCell.kind}), seed {seed}\n\n{ailing.HEAD}")
    found = Findings()
    for name in toxics:
        figures = _run(ailing.run_toxic(TOXICS[name], seconds, seed))
        click.echo(figures.row())
        found.faults += figures.faults()
    conclude(found)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except NamespacesError as error:
        text = f"{error}; --means proxy needs no namespaces, but loses no packets"
        raise click.ClickException(text) from error
    except (FleetError, ValueError) as error:
        raise click.ClickException(str(error)) from error
