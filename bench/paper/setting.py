"""The values of the paper's evaluation, read from a file, and the tasks of one seed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.acceptance import Floats
from policies.problem import Ints

_FILE = Path(__file__).parents[1] / "scenarios" / "paper-as-printed.toml"
# Of one batch, or of several.
Number = float | Floats


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

    def decode_flops(self, context: float) -> float:
        """Return the FLOPs of one token after `context` others."""
        h, f = self.hidden, self.ffn
        return self.layers * (8 * h**2 + 4 * h * f + 4 * h * context)

    def prefill_flops(self, length: float) -> float:
        h, f = self.hidden, self.ffn
        return self.layers * (length * (8 * h**2 + 4 * h * f) + 4 * h * length**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The values of the file, which says what each is and where it comes from."""

    num_tasks: int
    max_input: int
    max_output: int
    alpha: float
    max_length: int
    radius_m: float
    bandwidth_hz: float
    power_w: float
    noise_dbm: float
    loss_intercept_db: float
    loss_slope_db: float
    min_distance_m: float
    bits_a_token: float
    draft_flops_per_s: float
    target_flops_per_s: float
    draft_bytes_per_s: float
    target_bytes_per_s: float
    draft_memory_bytes: float
    c2_factor: float
    fixed_length: int
    static_size: int
    bucket_ratio: float
    seeds: int
    first_seed: int
    sweep: Mapping[str, Sequence[float]]
    models: Mapping[str, Model]

    @property
    def every_seed(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


def load_setting() -> Setting:
    given = tomllib.loads(_FILE.read_text())
    models = {name: Model(**shape) for name, shape in given.pop("models").items()}
    sweep = given.pop("sweep")
    values = {name: value for table in given.values() for name, value in table.items()}
    return Setting(**values, models=models, sweep=sweep)


@dataclass(frozen=True, slots=True)
class TaskSet:
    """K tasks. inputs: (K,) tokens, in order of arrival. efficiency: (K,) bit/s per hertz."""

    inputs: Ints
    efficiency: Floats


def draw(setting: Setting, seed: int) -> TaskSet:
    """Draw the tasks of a seed; a smaller number of tasks gives the first of a larger number."""
    num = setting.num_tasks
    lengths, places, fades = (np.random.default_rng([seed, number]) for number in range(3))
    inputs = np.ceil(lengths.random(num) * setting.max_input).astype(np.int64)
    distance_m = np.maximum(setting.min_distance_m, setting.radius_m * np.sqrt(places.random(num)))
    loss_db = setting.loss_intercept_db + setting.loss_slope_db * np.log10(distance_m / 1e3)
    snr_db = 10 * np.log10(setting.power_w * 1e3) - loss_db - setting.noise_dbm
    # Rayleigh fading: one draw for each task.
    snr = 10.0 ** (snr_db / 10) * fades.exponential(size=num)
    return TaskSet(np.maximum(1, inputs), np.log2(1.0 + snr))
