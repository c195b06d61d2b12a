from __future__ import annotations

import pytest

from nodes.telemetry.metrics import gateway, mesh
from nodes.telemetry.metrics.families import Metric

METRICS = (*mesh.METRICS, *gateway.METRICS)
UNITS = ("seconds", "bytes", "ratio", "per_second", "total")


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
