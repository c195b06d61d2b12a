"""`python -m bench chaos links|stalls|draftless|toxics`: run meshes over bad links."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, Protocol, TypeVar, get_args

import click

from bench.chaos.links import ailing, losses
from bench.chaos.links.mesh import HOWS
from bench.chaos.links.profiles import HEAD, Setting, row_of, run_profile
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


class Figures(Protocol):
    """What was measured, and what of it must not be."""

    def faults(self) -> list[str]: ...


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
    found = []
    for name in profiles:
        found.append(_run(run_profile(PROFILES[name], setting, means)))
        if len(found) == 1:
            click.echo(f"*emulated* ({found[0].kind}), seed {seed}\n\n{HEAD}")
        click.echo(row_of(found[-1]))
    _end(found)


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
    _end(_run(losses.run_stalls(hows, times, streams, seed, means, click.echo)))


@click.command("draftless")
@names_option("--hows", HOWS, "Ways to lose draft nodes.")
@at_least("--times", 9, "Losses by each way.")
@click.option("--streams", default=8, show_default=True)
@_seed
@_means
def draftless_command(hows: list[str], times: int, streams: int, seed: int, means: Means) -> None:
    """EMULATED: measure the speed of streams when all draft nodes are killed or cut off at once.

    \b
    Example:
      python -m bench chaos draftless --hows kill --times 3
    """
    _end(_run(losses.run_draftless(hows, times, streams, seed, means, click.echo)))


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
    found = []
    for name in toxics:
        found.append(_run(ailing.run_toxic(TOXICS[name], seconds, seed)))
        click.echo(found[-1].row())
    _end(found)


COMMANDS: Sequence[click.Command] = (
    links_command,
    stalls_command,
    draftless_command,
    toxics_command,
)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except NamespacesError as error:
        text = f"{error}; --means proxy needs no namespaces, but loses no packets"
        raise click.ClickException(text) from error
    except (FleetError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _end(found: Sequence[Figures]) -> NoReturn:
    conclude(Findings(faults=[fault for figures in found for fault in figures.faults()]))
