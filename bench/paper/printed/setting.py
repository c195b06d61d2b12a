"""The values of the paper's evaluation, read from a file, and the tasks of one seed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.paper.rules import ScenarioError, count, flag, number, read_table
from policies.acceptance import Floats
from policies.problem import Ints

PRINTED = Path(__file__).parents[2] / "scenarios" / "paper-as-printed.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    num: int = count(1)
    max_input: int = count(1)
    max_output: int = count(1)
    alpha: float = number(0.0, 1.0)
    max_length: int = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    radius_m: float = number(1)
    bandwidth_hz: float = number(1)
    power_w: float = number(0)
    noise_dbm: float = number(-300)
    loss_intercept_db: float = number(0)
    loss_slope_db: float = number(0)
    min_distance_m: float = number(0)
    rayleigh: bool = flag()
    bits_a_token: float = number(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    draft_flops_per_s: float = number(1)
    target_flops_per_s: float = number(1)
    draft_bytes_per_s: float = number(1)
    target_bytes_per_s: float = number(1)
    draft_memory_bytes: float = number(1)
    c2_factor: float = number(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemes:
    fixed_length: int = count(1)
    static_size: int = count(1)
    bucket_ratio: float = number(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder with 16-bit weights, by FlexGen's formulas (arXiv 2303.06865)."""

    layers: int = count(1)
    hidden: int = count(1)
    ffn: int = count(1)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    seeds: int = count(1)
    first_seed: int = count(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    bits_a_token: tuple[float, ...] = number(0, many=True)
    c2_factor: tuple[float, ...] = number(0, many=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    tasks: Tasks
    cell: Cell
    devices: Devices
    schemes: Schemes
    run: Run
    sweep: Sweep
    models: Mapping[str, Model]


def load_setting(path: Path = PRINTED) -> Setting:
    """Load the values. Raises ScenarioError, which names the key, its value and accepted ones."""
    try:
        with path.open("rb") as file:
            given = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    tables = {"tasks": Tasks, "cell": Cell, "devices": Devices, "schemes": Schemes}
    tables |= {"run": Run, "sweep": Sweep}
    read: dict[str, Any] = {
        name: read_table(cls, name, given.get(name)) for name, cls in tables.items()
    }
    models = given.get("models", {})
    read["models"] = {name: read_table(Model, f"models.{name}", models[name]) for name in models}
    if unknown := sorted(set(given) - set(read)):
        raise ScenarioError(f"[{unknown[0]}]: unknown table, accepted are {', '.join(read)}")
    return Setting(**read)


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
