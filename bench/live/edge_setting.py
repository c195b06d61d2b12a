"""What the edge cell is: its devices, its stations and their rates, its texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.emulate.cell import Cell, Contention, Station

AIR = "cell"
TARGET_STATION = "agx"
NUM_DRAFTS = 4
# Of the fastest station's rate.
RATES = (0.25, 0.5, 1.0, 1.0)
FRAME_S = 0.5e-3
BENCH = Path(__file__).parents[1]
RECORDING = BENCH / "emulate" / "recordings" / "smollm2-135m.json.z"
# Acceptance wanted -> whose guesses, and of which texts. The times are those of one device.
ALPHAS = {
    0.4: ("smollm2-draft", 0.35, 0.45),
    0.5: ("smollm2-draft", 0.45, 0.55),
    0.6: ("smollm2-draft", 0.55, 0.65),
    0.7: ("smollm2-135m-q4_0", 0.65, 0.75),
    0.8: ("smollm2-135m-q4_0", 0.75, 0.85),
    0.9: ("smollm2-135m-q4_0", 0.85, 0.95),
}
TARGET = ("jetson-agx-orin.toml", "llama-3.1-8b")
DRAFT = ("jetson-orin-nano.toml", "llama-160m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """rate_bps: of the fastest station when the cell is otherwise silent. is_target_on_air: the
    target is a station, too, as fast as the fastest; else it is at the hub."""

    rate_bps: float
    alpha: float
    num_streams: int = 16
    warm_up_s: float = 8.0
    seconds: float = 12.0
    is_target_on_air: bool = False

    @property
    def place(self) -> str:
        """What it is, in words."""
        where = ", the target on it" if self.is_target_on_air else ""
        return f"cell of {self.rate_bps / 1e3:g} kbit/s{where}, alpha {self.alpha:g}"

    def cell(self) -> Cell:
        stations = [
            Station(name=f"nano-{k}", rate_bps=self.rate_bps * part, delay_s=1e-3)
            for k, part in enumerate(RATES)
        ]
        if self.is_target_on_air:
            stations.append(Station(name=TARGET_STATION, rate_bps=self.rate_bps, delay_s=1e-3))
        return Cell(stations=tuple(stations), access=Contention(), frame_s=FRAME_S)


def first_length(num_tokens: int, stream: int, num_streams: int) -> int:
    """Tokens of a stream's first text that it asks for: from then on streams end apart."""
    return max(1, num_tokens * (stream + 1) // num_streams)
