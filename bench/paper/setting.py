"""The values of the paper's evaluation, read from a file, and the tasks of one seed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.acceptance import Floats
from policies.problem import Ints

_FILE = Path(__file__).parents[1] / "scenarios" / "paper-as-printed.toml"


@dataclass(frozen=True, slots=True)
class Tasks:
    num: int
    max_input: int
    max_output: int
    alpha: float
    max_length: int


@dataclass(frozen=True, slots=True)
class Cell:
    radius_m: float
    bandwidth_hz: float
    power_w: float
    noise_dbm: float
    loss_intercept_db: float
    loss_slope_db: float
    min_distance_m: float
    rayleigh: bool
    bits_a_token: float


@dataclass(frozen=True, slots=True)
class Devices:
    draft_flops_per_s: float
    target_flops_per_s: float
    draft_bytes_per_s: float
    target_bytes_per_s: float
    draft_memory_bytes: float
    c2_factor: float


@dataclass(frozen=True, slots=True)
class Schemes:
    fixed_length: int
    static_size: int
    bucket_ratio: float


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder with 16-bit weights, by FlexGen's formulas (arXiv 2303.06865)."""

    layers: int
    hidden: int
    ffn: int

    @property
    def weight_bytes(self) -> float:
        return self.layers * (8 * self.hidden**2 + 4 * self.hidden * self.ffn)

    @property
    def cache_bytes(self) -> float:
        """Bytes of one token in the cache."""
        return 4 * self.layers * self.hidden

    def decode_flops(self, context: Floats) -> Floats:
        """Return the FLOPs of one token after `context` others."""
        h, f = self.hidden, self.ffn
        return self.layers * (8 * h**2 + 4 * h * f + 4 * h * context)

    def prefill_flops(self, length: Floats) -> Floats:
        h, f = self.hidden, self.ffn
        return self.layers * (length * (8 * h**2 + 4 * h * f) + 4 * h * length**2)


@dataclass(frozen=True, slots=True)
class Run:
    seeds: int
    first_seed: int

    @property
    def every(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True, slots=True)
class Sweep:
    bits_a_token: tuple[float, ...]
    c2_factor: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    tasks: Tasks
    cell: Cell
    devices: Devices
    schemes: Schemes
    run: Run
    sweep: Sweep
    models: Mapping[str, Model]


def load_setting() -> Setting:
    with _FILE.open("rb") as file:
        given = tomllib.load(file)
    return Setting(
        Tasks(**given["tasks"]),
        Cell(**given["cell"]),
        Devices(**given["devices"]),
        Schemes(**given["schemes"]),
        Run(**given["run"]),
        Sweep(**{name: tuple(map(float, values)) for name, values in given["sweep"].items()}),
        {name: Model(**shape) for name, shape in given["models"].items()},
    )


@dataclass(frozen=True, slots=True)
class TaskSet:
    """K tasks. inputs: (K,) tokens, in order of arrival. efficiency: (K,) bit/s per hertz."""

    inputs: Ints
    efficiency: Floats


def draw(setting: Setting, seed: int) -> TaskSet:
    """Draw the tasks of a seed; a smaller number of tasks gives the first of a larger number."""
    tasks, cell = setting.tasks, setting.cell
    lengths, places, fades = (np.random.default_rng([seed, number]) for number in range(3))
    inputs = np.ceil(lengths.random(tasks.num) * tasks.max_input).astype(np.int64)
    distance_m = np.maximum(cell.min_distance_m, cell.radius_m * np.sqrt(places.random(tasks.num)))
    loss_db = cell.loss_intercept_db + cell.loss_slope_db * np.log10(distance_m / 1e3)
    snr_db = 10 * np.log10(cell.power_w * 1e3) - loss_db - cell.noise_dbm
    snr = 10.0 ** (snr_db / 10)
    if cell.rayleigh:
        snr = snr * fades.exponential(size=tasks.num)
    return TaskSet(np.maximum(1, inputs), np.log2(1.0 + snr))
