"""The scenario file of the paper's evaluation: devices, cell, tasks, schemes, sweeps."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.paper.rules import ScenarioError, choice, count, flag, number, read_table

BENCH = Path(__file__).parents[1]
PAPER = BENCH / "scenarios" / "paper.toml"
PROFILES = BENCH / "profiles"
SCHEMES = (
    "joint",
    "joint-step",
    "ad",
    "fixed-gamma",
    "max-batch",
    "static",
    "single-stream",
    "alternating",
    "greedy",
    "uniform-air",
    "no-overlap",
)
METRICS = ("mean", "makespan")
# The comparisons need these schemes.
_NEEDED = ("joint", "joint-step", "uniform-air")


def model_names() -> tuple[str, ...]:
    """Return the names of models with known shapes."""
    with (PROFILES / "models.toml").open("rb") as file:
        return tuple(model["name"] for model in tomllib.load(file)["model"])


_DEVICES = tuple(sorted(path.stem for path in PROFILES.glob("*.toml") if path.stem != "models"))
_TINY = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    draft: str = choice(*model_names())
    target: str = choice(*model_names())


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Names of profiles."""

    draft: str = choice(*_DEVICES)
    target: str = choice(*_DEVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of the target. other_bytes: use besides weights and cache."""

    other_bytes: float = number(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The uplink. path loss in dB: intercept + slope log10(distance in space, m)."""

    bandwidth_hz: float = number(1)
    power_dbm: float = number(-100, 100)
    noise_dbm_per_hz: float = number(-300, 0)
    noise_figure_db: float = number(0, 100)
    path_loss_intercept_db: float = number(-300, 300)
    path_loss_slope_db: float = number(0, 100)
    height_difference_m: float = number(0)
    min_distance_m: float = number(0.1)
    max_distance_m: float = number(0.1)
    shadowing_db: float = number(0, 100)
    rayleigh: bool = flag()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Distributions that tasks are drawn from. length_variation: standard deviation over mean."""

    num: int = count(1, 10_000)
    prompt_mean: float = number(1)
    output_mean: float = number(1)
    length_variation: float = number(0, 100)
    min_tokens: int = count(1)
    max_tokens: int = count(1)
    payload_bytes: float = number(_TINY)
    alpha_mean: float = number(0, 1)
    alpha_std: float = number(0, 1)
    alpha_min: float = number(0, 1)
    alpha_max: float = number(0, 1)
    weight: float = number(_TINY)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLink:
    """The link between draft node and target."""

    rtt_s: float = number(0, 3600)
    rate_bps: float = number(1)
    token_bits: int = count(1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemes:
    names: tuple[str, ...] = choice(*SCHEMES, many=True)
    fixed_gamma: int = count(0, 8)
    upload_groups: int = count(2)
    upload_share: float = number(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    seeds: int = count(5)
    first_seed: int = count(0)
    replan_share: float = number(_TINY, 1)
    metrics: tuple[str, ...] = choice(*METRICS, many=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeps:
    """Values of each axis. Payloads are combined with the bandwidths payload_bandwidth_hz."""

    num_tasks: tuple[int, ...] = count(1, 10_000, many=True)
    bandwidth_hz: tuple[float, ...] = number(1, many=True)
    fixed_gamma: tuple[int, ...] = count(0, 8, many=True)
    alpha_mean: tuple[float, ...] = number(0, 1, many=True)
    draft_speed: tuple[float, ...] = number(_TINY, many=True)
    shadowing_db: tuple[float, ...] = number(0, 100, many=True)
    target_device: tuple[str, ...] = choice(*_DEVICES, many=True)
    target_overlap: tuple[float, ...] = number(0, 1, many=True)
    payload_bytes: tuple[float, ...] = number(_TINY, many=True)
    payload_bandwidth_hz: tuple[float, ...] = number(1, many=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """The best gamma of one stream by round trip time. fit_above_s: least time in the fit."""

    alphas: tuple[float, ...] = number(0.01, 0.99, many=True)
    min_rtt_s: float = number(1e-6)
    max_rtt_s: float = number(1e-6)
    num_points: int = count(3, 10_000)
    fit_above_s: float = number(0)
    context: int = count(1)
    max_gamma: int = count(1, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    models: Models
    devices: Devices
    memory: Memory
    cell: Cell
    tasks: Tasks
    link: DraftLink
    schemes: Schemes
    run: Run
    sweeps: Sweeps
    delay: Delay


_TABLES: Mapping[str, type[Any]] = {
    "models": Models,
    "devices": Devices,
    "memory": Memory,
    "cell": Cell,
    "tasks": Tasks,
    "link": DraftLink,
    "schemes": Schemes,
    "run": Run,
    "sweeps": Sweeps,
    "delay": Delay,
}


def load(path: Path) -> Scenario:
    """Load a scenario file. Raises ScenarioError, which names file, key and accepted values."""
    try:
        with path.open("rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: is not TOML: {error}") from None
    try:
        return _scenario(given)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _scenario(given: Mapping[str, Any]) -> Scenario:
    for table, value in given.items():
        if table not in _TABLES:
            raise ScenarioError(
                f"{table} = {value!r}: accepted are the tables {', '.join(_TABLES)}"
            )
    scenario = Scenario(
        **{table: read_table(cls, table, given.get(table)) for table, cls in _TABLES.items()}
    )
    _check_together(scenario)
    return scenario


def _check_together(scenario: Scenario) -> None:
    """Check values that limit each other. Raises ScenarioError."""
    names = scenario.schemes.names
    if not set(_NEEDED) <= set(names):
        raise ScenarioError(
            f"schemes.names = {list(names)!r}: a list with {', '.join(_NEEDED)} in it is accepted"
        )
    for table, low, high in (
        ("cell", "min_distance_m", "max_distance_m"),
        ("tasks", "min_tokens", "max_tokens"),
        ("tasks", "alpha_min", "alpha_max"),
        ("delay", "min_rtt_s", "max_rtt_s"),
    ):
        part = getattr(scenario, table)
        least, most = getattr(part, low), getattr(part, high)
        if least > most:
            raise ScenarioError(
                f"{table}.{high} = {most!r}: at least {low} = {least!r} is accepted"
            )
