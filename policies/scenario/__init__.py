"""Scenarios: what a plan, or a simulation, is made for."""

from policies.scenario.fields import ScenarioError
from policies.scenario.read import (
    MAX_STREAMS,
    Scenario,
    StreamGroup,
    TargetNode,
    files_named,
    scenario_from,
)

__all__ = [
    "MAX_STREAMS",
    "Scenario",
    "ScenarioError",
    "StreamGroup",
    "TargetNode",
    "files_named",
    "scenario_from",
]
