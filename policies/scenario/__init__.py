"""Scenarios: the inputs of a plan or a simulation."""

from airdraft.policies.scenario.fields import ScenarioError
from airdraft.policies.scenario.read import scenario_from

__all__ = ["ScenarioError", "scenario_from"]
