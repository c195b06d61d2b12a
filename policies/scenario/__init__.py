"""Scenarios: the inputs of a plan or a simulation."""

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
