"""docs/grafana.json against what is really exposed."""

import json
import re
from pathlib import Path

from airdraft.nodes.telemetry.metrics import gateway, mesh
from tests.nodes.telemetry.metrics.exposed import everything

DASHBOARD = json.loads((Path(__file__).parents[4] / "docs" / "grafana.json").read_text())


def test_queries_speak_of_metrics_and_labels_that_there_are_and_of_all_metrics() -> None:
    labels_of: dict[str, set[str]] = {}
    for name, labels in everything():
        labels_of.setdefault(name, set()).update(key for key, _ in labels)
    drawn = set()
    for target in (target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())):
        expr, legend = target["expr"], target["legendFormat"]
        assert expr.count("(") == expr.count(")")
        # The labels that aggregates keep.
        kept = {label for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(", ")}
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        found = re.findall(r"(airdraft_\w+)(?:\{([^}]*)\})?(\[[^\]]+\])?", expr)
        for name, matched, over in found:
            assert {*re.findall(r"(\w+)[!=]", matched), *kept} <= labels_of[name], expr
            assert bool(over) == name.endswith(("_total", "_bucket", "_sum", "_count")), expr
            assert shown <= (kept or labels_of[name]), expr
            drawn.add(name.removesuffix("_bucket"))
    assert drawn == {metric.name for metric in (*mesh.METRICS, *gateway.METRICS)}
