"""The paper's model: times linear in FLOPs, padded batches, and a pipeline of two steps.

In a decode stage every batch is drafted and then verified once. The draft node works on the next
batch while the target verifies the one before. All outputs count as long as the longest, which
decides the number of stages. Before the first stage both models read each batch.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


class Pair(NamedTuple):
    """A draft and a target model by their names."""

    draft: str
    target: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Times of batches by the longest input and the number of tasks in them.

    length: the speculation length. Times of drafting and verifying are those of one decode stage.
    """

    setting: Setting
    draft: Model
    target: Model
    length: int

    @property
    def num(self) -> int:
        alpha, length = self.setting.alpha, self.length
        tokens = (1.0 - alpha ** (1 + length)) / (1.0 - alpha) if alpha < 1.0 else 1.0 + length
        return math.ceil(self.setting.max_output / tokens)

    def draft_s(self, longest: float, size: Number) -> Number:
        """Return the seconds of drafting: one pass for each guess."""
        flops = self.draft.decode_flops(longest + self.setting.max_output / 2)
        pass_s = flops * size / self.setting.draft_flops_per_s + self._draft_c2_s
        return self.length * pass_s

    def verify_s(self, longest: float, size: Number) -> Number:
        """Return the seconds of a pass of all guesses and one more token."""
        flops = self.target.decode_flops(longest + self.setting.max_output / 2)
        tokens_s = flops * (1 + self.length) * size / self.setting.target_flops_per_s
        return tokens_s + self._target_c2_s

    def read_s(self, longest: float, size: Number) -> Number:
        """Return the seconds in which both models read a batch's prompts, one after the other."""
        target_s = self.target.prefill_flops(longest) * size / self.setting.target_flops_per_s
        if not self.length:
            return target_s + self._target_c2_s
        draft_s = self.draft.prefill_flops(longest) * size / self.setting.draft_flops_per_s
        return draft_s + target_s + self._draft_c2_s + self._target_c2_s

    def most(self, longest: float) -> float:
        """Return how many tasks with all outputs at full length the draft node's memory holds."""
        room = self.setting.draft_memory_bytes - self.draft.weight_bytes
        return room / ((longest + self.setting.max_output) * self.draft.cache_bytes)

    @property
    def _draft_c2_s(self) -> float:
        return self.setting.c2_factor * self.draft.weight_bytes / self.setting.draft_bytes_per_s

    @property
    def _target_c2_s(self) -> float:
        return self.setting.c2_factor * self.target.weight_bytes / self.setting.target_bytes_per_s


def stages_of(setting: Setting, pair: Pair, length: int) -> Stages:
    return Stages(setting, setting.models[pair.draft], setting.models[pair.target], length)


def total_s(
    stages: Stages, inputs: Ints, bounds: Sequence[int], *, has_pipeline: bool = True
) -> float:
    """Return the seconds from the first prompt to the last token, without uploads.

    inputs: (K,) in the order in which bounds, from 0 to K, cut them into batches. has_pipeline:
    whether the draft node continues with the next batch while the target verifies.
    """
    drafted_s = verified_s = read_s = 0.0
    for first, last in itertools.pairwise(bounds):
        longest, size = float(inputs[first:last].max()), last - first
        read_s += float(stages.read_s(longest, size))
        if not has_pipeline:
            drafted_s = verified_s
        drafted_s += float(stages.draft_s(longest, size))
        verified_s = max(verified_s, drafted_s) + float(stages.verify_s(longest, size))
    return read_s + stages.num * verified_s


def upload_s(setting: Setting, tasks: TaskSet, *, is_uniform: bool = False) -> float:
    """Return the seconds until the last prompt has arrived, with bands that let all end together
    (the paper's closed form), or with the same band for all if is_uniform."""
    hertz_seconds = tasks.inputs * setting.bits_a_token / tasks.efficiency
    most = len(tasks.inputs) * hertz_seconds.max() if is_uniform else hertz_seconds.sum()
    return float(most / setting.bandwidth_hz)
