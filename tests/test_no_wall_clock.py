"""Leases, deadlines and back-offs know no wall clock: it may be set, forth and back."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}
# Where the date itself is what matters.
ALLOWED = {
    "mesh/authorized.py": "an invitation is good until a date",
    "nodes/cli/keys.py": "an invitation is good until a date",
    "nodes/gateway/shape.py": "answers say when they were made",
    "nodes/engine/chat/sandbox.py": "chat templates may tell the model the date",
}


def test_the_wall_clock_is_read_for_dates_alone() -> None:
    found = set()
    for folder in ("mesh", "nodes", "policies"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and (node.value.id, node.attr) in WALL_CLOCKS
                ):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == set(ALLOWED)
