"""Points of the sweeps and the values of every scheme at each of them, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bench.paper import uplink
from bench.paper.scenario import Scenario
from bench.paper.schemes import REDUCERS, Case, Outcome, grouped, run_scheme
from bench.paper.tasks import draw
from bench.paper.world import World, world_of
from policies.acceptance import Floats

UPLOAD, LATENCY = "upload", "end to end"
# A measured quantity: (scope, metric, scheme).
Key = tuple[str, str, str]
_USES_GAMMA = ("fixed-gamma", "static")


@dataclass(frozen=True, slots=True)
class Variant:
    """A scenario, with changes that a scenario file cannot express."""

    scenario: Scenario
    draft_speed: float = 1.0
    target_overlap: float | None = None

    def world(self) -> World:
        return world_of(self.scenario, self.draft_speed, self.target_overlap)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a sweep. labels: its value on each axis."""

    labels: tuple[float | str, ...]
    variant: Variant


@dataclass(frozen=True, slots=True)
class Sweep:
    name: str
    axes: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Results at a point. values: (seeds,) seconds for each key."""

    point: Point
    values: Mapping[Key, Floats]

    def reductions(self, scope: str, metric: str, scheme: str, ours: str = "joint") -> Floats:
        """Return (seeds,) reductions by `ours` against `scheme`, as shares of the latter's time."""
        return 1.0 - self.values[scope, metric, ours] / self.values[scope, metric, scheme]


def _tasks(base: Scenario, **changes: object) -> Variant:
    return Variant(replace(base, tasks=replace(base.tasks, **changes)))  # type: ignore[arg-type]


def _cell(base: Scenario, **changes: object) -> Variant:
    return Variant(replace(base, cell=replace(base.cell, **changes)))  # type: ignore[arg-type]


def sweeps_of(base: Scenario) -> tuple[Sweep, ...]:
    """Return all sweeps of a scenario; values that are not swept are those of `base`."""
    values = base.sweeps

    def sweep(
        name: str, over: Iterable[float | str], vary: Callable[[float | str], Variant]
    ) -> Sweep:
        return Sweep(name, (name,), tuple(Point((value,), vary(value)) for value in over))

    def with_gamma(value: float | str) -> Variant:
        return Variant(replace(base, schemes=replace(base.schemes, fixed_gamma=int(value))))

    def with_target(value: float | str) -> Variant:
        return Variant(replace(base, devices=replace(base.devices, target=str(value))))

    def with_payload(payload_bytes: float, bandwidth_hz: float) -> Variant:
        scenario = _tasks(base, payload_bytes=payload_bytes).scenario
        return _cell(scenario, bandwidth_hz=bandwidth_hz)

    grid = tuple(
        Point((payload, bandwidth), with_payload(payload, bandwidth))
        for bandwidth in values.payload_bandwidth_hz
        for payload in values.payload_bytes
    )
    return (
        sweep("num_tasks", values.num_tasks, lambda x: _tasks(base, num=x)),
        sweep("bandwidth_hz", values.bandwidth_hz, lambda x: _cell(base, bandwidth_hz=x)),
        sweep("fixed_gamma", values.fixed_gamma, with_gamma),
        sweep("alpha_mean", values.alpha_mean, lambda x: _tasks(base, alpha_mean=x)),
        sweep("draft_speed", values.draft_speed, lambda x: Variant(base, draft_speed=float(x))),
        sweep("shadowing_db", values.shadowing_db, lambda x: _cell(base, shadowing_db=x)),
        sweep("target_device", values.target_device, with_target),
        sweep(
            "target_overlap",
            values.target_overlap,
            lambda x: Variant(base, target_overlap=float(x)),
        ),
        Sweep("payload", ("payload_bytes", "bandwidth_hz"), grid),
    )


class Runner:
    """Runs schemes, and keeps outcomes so that none runs twice for the same variant and seed."""

    def __init__(self) -> None:
        self._done: dict[tuple[Variant, int, str], Outcome] = {}

    def result(self, point: Point) -> Result:
        """Return the point's values for all seeds of its scenario."""
        run = point.variant.scenario.run
        by_seed = [
            self._values(point.variant, seed)
            for seed in range(run.first_seed, run.first_seed + run.seeds)
        ]
        values = {key: np.array([one[key] for one in by_seed]) for key in by_seed[0]}
        return Result(point, values)

    def _values(self, variant: Variant, seed: int) -> dict[Key, float]:
        scenario = variant.scenario
        case = Case(
            variant.world(),
            draw(scenario, seed),
            scenario.cell.bandwidth_hz,
            scenario.schemes.fixed_gamma,
        )
        names = [name for name in scenario.schemes.names if name != "joint"]
        outcomes = {name: self._outcome(variant, seed, name, case) for name in names}
        values: dict[Key, float] = {}
        for metric in scenario.run.metrics:
            for name, outcome in outcomes.items():
                values[UPLOAD, metric, name] = REDUCERS[metric](outcome.upload_s)
                values[LATENCY, metric, name] = REDUCERS[metric](outcome.latency_s)
        return values | self._joint(variant, seed, case, outcomes)

    def _joint(
        self, variant: Variant, seed: int, case: Case, outcomes: Mapping[str, Outcome]
    ) -> dict[Key, float]:
        """Return the rollout: the best of all runs and ways to share the band, for each metric."""
        scenario = variant.scenario
        step, uniform = outcomes["joint-step"], outcomes["uniform-air"]
        runs = [outcome.latency_s for outcome in outcomes.values()]
        if step.upload_s.mean() > scenario.schemes.upload_share * step.latency_s.mean():
            runs.append(self._outcome(variant, seed, "grouped", case).latency_s)
        uploads = [step.upload_s, uniform.upload_s]
        uploads.append(uplink.in_groups_s(*case.channel, scenario.schemes.upload_groups))
        values: dict[Key, float] = {}
        for metric in scenario.run.metrics:
            values[UPLOAD, metric, "joint"] = min(map(REDUCERS[metric], uploads))
            values[LATENCY, metric, "joint"] = min(map(REDUCERS[metric], runs))
        return values

    def _outcome(self, variant: Variant, seed: int, name: str, case: Case) -> Outcome:
        if name not in _USES_GAMMA:
            schemes = replace(variant.scenario.schemes, fixed_gamma=0)
            variant = replace(variant, scenario=replace(variant.scenario, schemes=schemes))
        key = (variant, seed, name)
        if key not in self._done:
            num_groups = variant.scenario.schemes.upload_groups
            outcome = grouped(case, num_groups) if name == "grouped" else run_scheme(name, case)
            self._done[key] = outcome
        return self._done[key]


def quick(scenario: Scenario, seeds: int) -> Scenario:
    """Return the scenario with only the first, middle and last value of each sweep."""
    thin = {
        name: tuple(dict.fromkeys((values[0], values[len(values) // 2], values[-1])))
        for name in scenario.sweeps.__dataclass_fields__
        for values in [getattr(scenario.sweeps, name)]
    }
    return replace(
        scenario,
        sweeps=replace(scenario.sweeps, **thin),
        run=replace(scenario.run, seeds=seeds),
    )
