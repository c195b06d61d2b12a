"""docs/grafana.json against what is really exposed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.telemetry.metrics import gateway, mesh
from tests.nodes.telemetry.metrics.exposed import everything

DOCS = Path(__file__).parents[4] / "docs"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())
METRICS = (*mesh.METRICS, *gateway.METRICS)


def targets() -> Iterator[tuple[str, str, str]]:
    """Title, query and legend of everything that is drawn."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def labels_by_sample() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, labels in everything():
        found.setdefault(name, set()).update(key for key, _ in labels)
    return found


LABELS = labels_by_sample()


def selectors(expr: str) -> list[tuple[str, set[str], bool]]:
    """The metrics of a query, the labels they are matched by, and whether over some time."""
    found = re.findall(r"(airdraft_\w+)(?:\{([^}]*)\})?(\[[^\]]+\])?", expr)
    return [(name, set(re.findall(r"(\w+)[!=]", by)), bool(over)) for name, by, over in found]


@pytest.mark.parametrize(("title", "expr", "legend"), [*targets()], ids=lambda text: text[:40])
def test_queries_speak_of_metrics_and_labels_that_there_are(
    title: str, expr: str, legend: str
) -> None:
    assert expr.count("(") == expr.count(")")
    assert selectors(expr)
    # The labels that aggregates keep.
    kept = {label for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(", ")}
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    for name, labels, is_range in selectors(expr):
        assert name in LABELS, title
        assert labels | kept <= LABELS[name], title
        assert is_range == name.endswith(("_total", "_bucket", "_sum", "_count"))
        assert shown <= (kept or LABELS[name]), title


def test_every_metric_is_drawn_somewhere_but_those_that_only_tell_what_runs() -> None:
    drawn = {name for _, expr, _ in targets() for name, *_ in selectors(expr)}
    left = {m.name for m in METRICS if not any(name.startswith(m.name) for name in drawn)}
    assert left == {
        "airdraft_info",
        "airdraft_uptime_seconds",
        "airdraft_requests_submitted_total",
        "airdraft_node_busy_ratio",
        "airdraft_air_busy_ratio",
        "airdraft_gateway_tokens_total",
    }


def test_panels_have_numbers_titles_and_places_of_their_own() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    for each in (titles, [panel["id"] for panel in panels], cells):
        assert len(set(each)) == len(each)
    assert all(place["x"] + place["w"] <= 24 for place in places)
