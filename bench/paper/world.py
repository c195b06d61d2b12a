"""Two nodes with their models, and the cycle problem of the tasks that are active on them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from bench.paper.rules import ScenarioError
from bench.paper.scenario import PROFILES, Scenario
from bench.paper.tasks import TaskSet
from policies.acceptance import Floats
from policies.analytic import (
    Device,
    TransformerShape,
    device_from,
    max_cells,
    node_costs,
    pass_bytes,
    pass_flops,
    pass_seconds,
    shape_from,
)
from policies.plan import MAX_AUTO_GAMMA, DraftView, Link, Observation, StreamView
from policies.problem import CATCH_UP_TOKENS, CycleProblem, Ints, problem_of

_DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Node:
    """A model on a device."""

    shape: TransformerShape
    device: Device

    def seconds_upto(self, num_tokens: int, num_sequences: int, cells: int) -> Floats:
        """Seconds of passes of 0, 1, ... num_tokens tokens, with logits for each; see pass_seconds.

        A token attends to the cells of its own sequence, cells / num_sequences on average; a pass
        reads the cells of all of them, as the cache is one.
        """
        shape, device = self.shape, self.device
        counts = np.arange(num_tokens + 1)
        flops = pass_flops(shape, 1, round(cells / num_sequences), 1) * counts
        moved = pass_bytes(shape, 0, cells, 1) + shape.kv_bytes_per_token * counts
        compute_s = flops / (device.flops_per_s * device.compute_efficiency)
        memory_s = moved / (device.bytes_per_s * device.memory_efficiency)
        exposed_s = (1.0 - device.overlap) * np.minimum(compute_s, memory_s)
        overhead_s = device.pass_overhead_s + shape.layers * device.layer_overhead_s
        seconds: Floats = overhead_s + np.maximum(compute_s, memory_s) + exposed_s
        seconds[0] = 0.0
        return seconds

    def prefill_s(self, prompts: Ints) -> float:
        """Seconds for prompts (n,), one logit each."""
        return pass_seconds(self.shape, self.device, prompts, 0, len(prompts))


@dataclass(frozen=True, slots=True)
class World:
    """Environment of a run. target_cells, draft_cells: cells of the two nodes' caches."""

    target: Node
    draft: Node
    target_cells: int
    draft_cells: int
    link: Link
    token_bits: int
    replan_share: float

    @property
    def cells(self) -> int:
        """Number of cells that tasks may fill; each token takes a cell in both caches."""
        return min(self.target_cells, self.draft_cells)


def world_of(
    scenario: Scenario, draft_speed: float = 1.0, target_overlap: float | None = None
) -> World:
    """Return the nodes of a scenario. draft_speed: factor on the draft device's profile.

    Raises ScenarioError if the largest task would not fit the caches.
    """
    target = Node(_shape(scenario.models.target), _device(scenario.devices.target))
    if target_overlap is not None:
        target = replace(target, device=replace(target.device, overlap=target_overlap))
    draft = Node(
        _shape(scenario.models.draft), _faster(_device(scenario.devices.draft), draft_speed)
    )
    room = target.device.memory_bytes - scenario.memory.other_bytes
    world = World(
        target=target,
        draft=draft,
        target_cells=max_cells(target.shape, replace(target.device, memory_bytes=max(1.0, room))),
        draft_cells=max_cells(draft.shape, draft.device),
        link=Link(scenario.link.rate_bps, scenario.link.rtt_s),
        token_bits=scenario.link.token_bits,
        replan_share=scenario.run.replan_share,
    )
    if 2 * scenario.tasks.max_tokens > world.cells:
        raise ScenarioError(
            f"tasks.max_tokens = {scenario.tasks.max_tokens}: the caches of {target.device.name} "
            f"and {draft.device.name} hold {world.cells} cells, up to half of that is accepted"
        )
    return world


def whole_problem(world: World, tasks: TaskSet) -> CycleProblem:
    """Return all tasks as streams in order of acceptance; times of passes are placeholders."""
    views = tuple(
        StreamView(k, float(alpha), MAX_AUTO_GAMMA + 1, draft=_DRAFT, weight=float(weight))
        for k, (alpha, weight) in enumerate(zip(tasks.alphas, tasks.weights, strict=True))
    )
    costs = node_costs(world.draft.shape, world.draft.device)
    return problem_of(
        Observation(
            streams=views,
            target=node_costs(world.target.shape, world.target.device),
            drafts=(DraftView(_DRAFT, costs, world.link),),
            token_bits=world.token_bits,
        )
    )


def problem_at(
    world: World, whole: CycleProblem, rows: Ints, tokens_left: Floats, cells: int
) -> CycleProblem:
    """Return the problem of some streams. rows: (n,) rows of the whole problem. tokens_left: (n,).
    cells: number of cells that the streams hold."""
    n = len(rows)
    most = np.clip(np.floor(tokens_left + 1e-9) - 1, 0, MAX_AUTO_GAMMA)
    return replace(
        whole.in_order(rows),
        most=most.astype(np.int64),
        target_s=world.target.seconds_upto(n * (MAX_AUTO_GAMMA + 1), n, cells),
        draft_s=world.draft.seconds_upto(CATCH_UP_TOKENS * n, n, cells)[None],
    )


def _faster(device: Device, speed: float) -> Device:
    return replace(
        device,
        flops_per_s=device.flops_per_s * speed,
        bytes_per_s=device.bytes_per_s * speed,
        pass_overhead_s=device.pass_overhead_s / speed,
        layer_overhead_s=device.layer_overhead_s / speed,
    )


@lru_cache(maxsize=16)
def _device(name: str) -> Device:
    return device_from(_toml(name)["device"])


@lru_cache(maxsize=16)
def _shape(name: str) -> TransformerShape:
    models = {model["name"]: model for model in _toml("models")["model"]}
    return shape_from(models[name]["shape"])


def _toml(name: str) -> Mapping[str, Any]:
    with (PROFILES / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)
