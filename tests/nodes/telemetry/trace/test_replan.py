from dataclasses import replace

import pytest

from nodes.cli.trace import price_s, replan, table_of
from policies.baselines import POLICIES
from policies.joint import joint_plan
from policies.plan import Batch, Observation
from policies.priced import price_of
from policies.problem import problem_of
from tests.nodes.telemetry.trace.examples import guessing, plan_record


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_priced_beside_the_recorded_plan(name: str) -> None:
    record = plan_record(guessing(5))
    ((_, plan),) = found = replan([record], POLICIES[name])
    assert price_s(plan) == pytest.approx(price_of(problem_of(record.observation), plan))
    ratio = price_s(plan) / price_s(record)
    # The policy of the recording makes the same plan again, and no other one a better plan.
    if name == record.policy:
        assert (ratio, plan.batches) == (1.0, record.batches)
    assert ratio >= 1.0 - 1e-9
    table = table_of(found, name)
    assert f"{name} to recorded, 1 plans: prices {ratio:.3f} on average" in table


def test_where_nothing_was_planned_nothing_is_compared() -> None:
    empty = plan_record(Observation(()))
    no_costs = plan_record(replace(guessing(), target=None))
    assert replan([empty, no_costs], POLICIES["joint"]) == []


def test_a_table_shows_both_plans_of_each_record() -> None:
    together = replace(plan_record(guessing(2), 5.0), batches=(Batch((1, 2), (8, 8)),))
    records = [together, plan_record(guessing(3, 0.01), 7.5)]
    lines = table_of(replan(records, POLICIES["ad"]), "ad").splitlines()
    assert all(line.isascii() for line in lines)
    assert lines[0].split() == ["at", "s", "streams", "plan", "price", "ms", "ratio", "batches"]
    assert lines[1].split()[:4] == ["0.00", "2", "recorded", "(joint)"]
    assert lines[1].split()[5] == "1.000"
    assert lines[1].endswith("  1-2: 8")
    assert lines[2].split()[0] == "ad"
    assert lines[2].endswith("plain 1-2")
    assert lines[3].split()[:2] == ["2.50", "3"]
    # Guesses that are never accepted are not made.
    assert lines[3].endswith("plain 1-3")
    assert lines[4].split()[2] == "1.000"


def test_many_batches_are_cut_short_and_gammas_are_in_the_order_of_streams() -> None:
    """Plans order streams by how often guesses are right."""
    record = plan_record(guessing(3))
    many = Batch((1, 3, 2), (8, 6, 4)), *(Batch((10 + n, 20 + n), (n, 4)) for n in range(2, 7))
    table = table_of(replan([replace(record, batches=many, plain=(1, 2, 4))], joint_plan), "joint")
    rows = [line.strip() for line in table.splitlines()]
    assert rows[1].endswith("  1-3: 8 4 6")
    assert rows[2:6] == ["12,22: 2 4", "13,23: 3 4", "14,24: 4", "and 2 more"]
    assert rows[6] == "plain 1-2,4"
