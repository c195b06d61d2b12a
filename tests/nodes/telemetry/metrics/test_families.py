from __future__ import annotations

import pytest

from nodes.telemetry.metrics import gateway, mesh
from nodes.telemetry.metrics.families import Distribution, Family, Metric

METRICS = (*mesh.METRICS, *gateway.METRICS)
UNITS = ("seconds", "bytes", "ratio", "per_second", "total")


def test_values_fall_below_their_bound_or_above_all() -> None:
    found = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        found.observe(value)
    assert (found.counts, found.total) == ([2, 1, 1], 12.0)
    assert Distribution.of([1.0], [3, 4], 5.0) == Distribution((1.0,), [3, 4], 5.0)


def test_the_same_labels_twice_are_one_value() -> None:
    family = Family(Metric("airdraft_x", "gauge", "X.", ("node",)))
    family.add(1, "a")
    family.add(2, "a")
    assert family.values == {("a",): 2}
    with pytest.raises(AssertionError):
        family.add(1)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_as_prometheus_wants_them(metric: Metric) -> None:
    assert metric.name.startswith("airdraft_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")
    assert "|" not in metric.help
    if "second" in metric.help.lower() and metric.kind != "histogram":
        assert any(unit in metric.name for unit in UNITS)


def test_no_metric_is_declared_twice_or_left_out() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 50
