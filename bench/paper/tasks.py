"""The tasks of one seed: lengths, acceptance, and the channel to the base station."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.paper.scenario import Cell, Scenario, Tasks
from policies.acceptance import Floats
from policies.problem import Ints


@dataclass(frozen=True, slots=True)
class TaskSet:
    """n tasks that exist from time 0. snr_hz: P h / N0 of each, see bench/paper/ofdma.py."""

    prompts: Ints
    outputs: Ints
    alphas: Floats
    weights: Floats
    snr_hz: Floats
    payload_bits: Floats

    @property
    def num(self) -> int:
        return len(self.prompts)

    @property
    def needs(self) -> Ints:
        """(n,) number of cells that each task fills by its end."""
        return self.prompts + self.outputs


def draw(scenario: Scenario, seed: int) -> TaskSet:
    """Draw the tasks of a seed. A smaller number of tasks gives the first of a larger number, and
    parameters of spread only scale the same draws."""
    tasks = scenario.tasks
    streams = [np.random.default_rng([seed, number]) for number in range(6)]
    prompt, output, alpha, shadow = (stream.standard_normal(tasks.num) for stream in streams[:4])
    place = streams[4].random(tasks.num)
    fade = streams[5].exponential(size=tasks.num)
    prompts = _lengths(tasks, tasks.prompt_mean, prompt)
    return TaskSet(
        prompts=prompts,
        outputs=_lengths(tasks, tasks.output_mean, output),
        alphas=np.clip(
            tasks.alpha_mean + tasks.alpha_std * alpha, tasks.alpha_min, tasks.alpha_max
        ),
        weights=np.full(tasks.num, tasks.weight),
        snr_hz=_snr_hz(scenario.cell, place, shadow, fade),
        payload_bits=prompts.astype(np.float64) * (8.0 * tasks.payload_bytes),
    )


def _lengths(tasks: Tasks, mean: float, normal: Floats) -> Ints:
    """Return log-normal lengths, with the given mean before they are clipped."""
    variance = np.log1p(tasks.length_variation**2)
    lengths = mean * np.exp(np.sqrt(variance) * normal - variance / 2)
    cut: Ints = np.clip(np.rint(lengths), tasks.min_tokens, tasks.max_tokens).astype(np.int64)
    return cut


def _snr_hz(cell: Cell, place: Floats, shadow: Floats, fade: Floats) -> Floats:
    """Return c = P h / N0 for users spread evenly over a ring around the base station."""
    inner, outer = cell.min_distance_m**2, cell.max_distance_m**2
    distance_m = np.sqrt(inner + place * (outer - inner) + cell.height_difference_m**2)
    loss_db = cell.path_loss_intercept_db + cell.path_loss_slope_db * np.log10(distance_m)
    loss_db = loss_db + cell.shadowing_db * shadow
    noise_dbm = cell.noise_dbm_per_hz + cell.noise_figure_db
    snr_hz = 10.0 ** ((cell.power_dbm - loss_db - noise_dbm) / 10.0)
    return np.asarray(snr_hz * fade if cell.rayleigh else snr_hz)
