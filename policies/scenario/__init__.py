"""Scenarios: the inputs of a plan or a simulation."""

from airdraft.policies.scenario.fields import ScenarioError
from airdraft.policies.scenario.read import Scenario, scenario_from

__all__ = ["Scenario", "ScenarioError", "scenario_from"]
