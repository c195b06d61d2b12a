"""`python -m bench live`: measure running meshes beside what they are compared with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from bench.emulate.open import Means
from bench.harness.options import names_option
from bench.harness.report import conclude
from bench.live.edge_setting import ALPHAS, Setting
from bench.results.options import COUNTS, NUMBERS, listed
from nodes.scheduler.planning import MODES

F = TypeVar("F", bound=Callable[..., Any])


@click.group("live")
def live() -> None:
    """Measure whole meshes and their references in one run.

    \b
    Example:
      python -m bench live machine --targets Q8_0 --streams 1,4
    """


@live.command("machine")
@names_option("--targets", ("Q8_0", "Q4_0", "F16"), "Quantizations of the target.")
@names_option("--drafts", ("good", "bad", "lookup", "none"), "Kinds of guesses.")
@click.option("--streams", type=COUNTS, default="1,4,16", help="Stream counts.")
@click.option("--pairs", default=9, help="Pairs of runs, A B then B A.")
@click.option("--max-tokens", default=128)
def machine(
    targets: list[str], drafts: list[str], streams: list[int], pairs: int, max_tokens: int
) -> None:
    """Compare a real mesh with a bare llama.cpp loop.

    Both run on this machine with the same numerics; nothing is emulated.

    \b
    Example:
      python -m bench live machine --targets Q8_0 --drafts good --streams 1 --pairs 3
    """
    from bench.live.machine import run_machine

    run_machine(targets, drafts, streams, num_pairs=pairs, max_tokens=max_tokens, report=click.echo)


@live.command("gateway")
@click.option("--streams", type=COUNTS, default="1,16", help="Stream counts.")
@click.option("--pairs", default=9, help="Pairs of runs, A B then B A.")
@click.option("--max-tokens", default=128)
@click.option(
    "--prompts",
    type=COUNTS,
    default="32,256",
    help="Prompt lengths in tokens for the time to the first token.",
)
def gateway(streams: list[int], pairs: int, max_tokens: int, prompts: list[int]) -> None:
    """Compare gateway and mesh with a bare llama.cpp loop.

    Tokens/s and the time to the first token are compared.

    \b
    Example:
      python -m bench live gateway --streams 1 --pairs 3
    """
    from bench.live.gateway import run_gateway

    run_gateway(
        streams,
        num_pairs=pairs,
        max_tokens=max_tokens,
        prompt_lengths=prompts,
        report=click.echo,
    )


@live.command("scale")
@click.option("--streams", type=COUNTS, default="16,64,256", help="Stream counts.")
@click.option("--seconds", default=10.0)
@click.option("--gamma", default=4, type=click.IntRange(1, 16))
@click.option("--pass-ms", default=40.0, help="Duration of a target's pass in ms.")
@click.option("--per-target", default=32, help="Streams of each target.")
def scale(streams: list[int], seconds: float, gamma: int, pass_ms: float, per_target: int) -> None:
    """Measure one coordinator's load on one core.

    Its nodes run on the other cores and look their tokens up instead of computing them.

    \b
    Example:
      python -m bench live scale --streams 256 --seconds 5
    """
    from bench.live.scale import measure

    num_wrong = 0
    for count in streams:
        measuring = measure(count, seconds, per_target=per_target, gamma=gamma, pass_ms=pass_ms)
        carried = asyncio.run(measuring)
        click.echo(str(carried))
        num_wrong += carried.num_wrong
    sys.exit(1 if num_wrong else 0)


def edge_options(command: F) -> F:
    """Add the options of a radio cell, which may be emulated or simulated."""
    for option in (
        click.option("--target-on-air", is_flag=True, help="Make the target a station, too."),
        click.option(
            "--policies",
            type=listed(accepted=lambda: MODES),
            default=",".join(dict.fromkeys(("plain", "auto", *MODES))),
            show_default="all",
            help="Planning modes.",
        ),
        click.option(
            "--alphas",
            type=listed(float, lambda: ALPHAS),
            default="0.4,0.6,0.7,0.8,0.9",
        ),
        click.option(
            "--rates-kbps",
            type=NUMBERS,
            default="200,2000,20000",
            help="Rates of the radio cell in kbit/s.",
        ),
    ):
        command = option(command)
    return command


def edge_settings(
    rates_kbps: list[float], alphas: list[float], *, target_on_air: bool, **fields: Any
) -> list[Setting]:
    """Return the cells of these options, with further fields."""
    return [
        Setting(rate_bps=rate * 1e3, alpha=alpha, is_target_on_air=target_on_air, **fields)
        for rate in rates_kbps
        for alpha in alphas
    ]


@live.command("edge")
@edge_options
@click.option("--streams", default=16)
@click.option("--seconds", default=16.0, help="Measured seconds of each policy's turn.")
@click.option("--warm-up", default=8.0, help="Seconds of a turn before measuring begins.")
@click.option("--turns", default=1, help="Turns of each policy; several show the noise.")
@click.option("--means", type=click.Choice(["auto", "tun", "proxy"]), default="auto")
def edge(
    policies: list[str],
    streams: int,
    seconds: float,
    warm_up: float,
    turns: int,
    means: Means,
    **cells: Any,
) -> None:
    """EMULATED: measure a mesh on one radio cell.

    One strong target has four small draft nodes, whose links have different rates.

    \b
    Example:
      python -m bench live edge --rates-kbps 2000 --alphas 0.8 --policies plain,auto
    """
    from bench.live.edge import run_setting
    from bench.live.edge_report import HEAD, verdict

    settings = edge_settings(**cells, num_streams=streams, warm_up_s=warm_up, seconds=seconds)
    where = ", the target on it" if cells["target_on_air"] else ""
    click.echo(f"emulated devices, emulated air{where}\n{HEAD}")
    found = {
        setting: asyncio.run(run_setting(setting, policies, means, click.echo, turns))
        for setting in settings
    }
    text, is_good = verdict(found)
    click.echo(text)
    sys.exit(0 if is_good else 1)


@live.command("mixed")
@click.option("--streams", default=8)
@click.option("--max-tokens", default=128)
@click.option("--turns", default=3)
def mixed(streams: int, max_tokens: int, turns: int) -> None:
    """EMULATED: measure meshes of unequal draft nodes.

    Draft nodes of different speed work for one target, and for two.

    \b
    Example:
      python -m bench live mixed --streams 4 --turns 1
    """
    from bench.live.mixed import run_mixed

    conclude(asyncio.run(run_mixed(streams, max_tokens, turns, click.echo)))
