"""Description of the edge cell: its devices, its stations and their rates, its texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.emulate.cell import Cell, Station
from bench.options import NUMBERS, listed, names_option
from nodes.scheduler.planning import MODES

AIR = "cell"
TARGET_STATION = "agx"
NUM_DRAFTS = 4
# Rates of the stations as shares of the fastest station's.
RATES = (0.25, 0.5, 1.0, 1.0)
FRAME_S = 0.5e-3
_EMULATE = Path(__file__).parents[1] / "emulate"
RECORDING = _EMULATE / "recordings" / "smollm2-135m.json.z"
# Acceptance -> draft whose guesses are replayed, and least and greatest acceptance of its texts.
# The times are those of the same device for both drafts.
ALPHAS = {
    0.4: ("smollm2-draft", 0.35, 0.45),
    0.5: ("smollm2-draft", 0.45, 0.55),
    0.6: ("smollm2-draft", 0.55, 0.65),
    0.7: ("smollm2-135m-q4_0", 0.65, 0.75),
    0.8: ("smollm2-135m-q4_0", 0.75, 0.85),
    0.9: ("smollm2-135m-q4_0", 0.85, 0.95),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One edge cell. rate_bps: rate of the fastest station when no other one sends.
    is_target_on_air: the target is a station, too, with that rate; otherwise it is at the hub."""

    rate_bps: float
    alpha: float
    num_streams: int = 16
    warm_up_s: float = 8.0
    seconds: float = 12.0
    is_target_on_air: bool = False

    @property
    def place(self) -> str:
        """The setting in words."""
        where = ", the target on it" if self.is_target_on_air else ""
        return f"cell of {self.rate_bps / 1e3:g} kbit/s{where}, alpha {self.alpha:g}"

    def cell(self) -> Cell:
        stations = [
            Station(name=f"nano-{k}", rate_bps=self.rate_bps * part, delay_s=1e-3)
            for k, part in enumerate(RATES)
        ]
        if self.is_target_on_air:
            stations.append(Station(name=TARGET_STATION, rate_bps=self.rate_bps, delay_s=1e-3))
        return Cell(stations=tuple(stations), frame_s=FRAME_S)


def first_length(num_tokens: int, stream: int, num_streams: int) -> int:
    """Return the length of a stream's first text; unequal ones make streams end apart."""
    return max(1, num_tokens * (stream + 1) // num_streams)


def node_file(draft: str = "") -> Path:
    """Return the description of a draft node that replays a draft; by default of the target."""
    return _EMULATE / "nodes" / f"edge-{draft or 'target'}.toml"


def edge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a radio cell, which may be emulated or simulated."""
    for option in (
        click.option("--target-on-air", is_flag=True, help="Make the target a station, too."),
        names_option("--policies", dict.fromkeys(("plain", "auto", *MODES)), "Planning modes."),
        click.option("--alphas", type=listed(float, lambda: ALPHAS), default="0.4,0.6,0.7,0.8,0.9"),
        click.option("--rates-kbps", type=NUMBERS, default="200,2000,20000", help="Of the cell."),
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
