"""Scenarios: the inputs of a plan or a simulation."""

from policies.scenario.fields import ScenarioError
from policies.scenario.read import scenario_from

__all__ = ["ScenarioError", "scenario_from"]
