"""Compares the coverage of each module with the floor that it has in coverage_floors.json.

    python tests/coverage_floors.py build/coverage.json [--write]

A module may not fall below its floor, and one without a floor counts as one with 90 %. With --write
the floors become what was measured, rounded down. Commands that tests start as processes of their
own are not measured, so modules of the command line have low floors.
"""

import json
import math
import sys
from pathlib import Path

FLOORS = Path(__file__).with_name("coverage_floors.json")
# New modules need this, in per cent.
_DEFAULT = 90
# What depends on timing differs between runs, in per cent of a module.
_SLACK = 2


def measured(report: Path) -> dict[str, float]:
    """Returns by module the share of lines and branches that were run, in per cent."""
    files = json.loads(report.read_text())["files"]
    return {name: each["summary"]["percent_covered"] for name, each in sorted(files.items())}


def complaints(found: dict[str, float], floors: dict[str, int]) -> list[str]:
    """Returns a line for each module that fell below its floor, or that is gone but has one."""
    low = [
        f"{name}: {share:.1f} % covered, {floors.get(name, _DEFAULT)} % wanted"
        for name, share in found.items()
        if share < floors.get(name, _DEFAULT)
    ]
    return low + [f"{name}: has a floor but is gone" for name in floors if name not in found]


def main() -> None:
    found = measured(Path(sys.argv[1]))
    if "--write" in sys.argv[2:]:
        floors = {name: max(0, math.floor(share) - _SLACK) for name, share in found.items()}
        FLOORS.write_text(json.dumps(floors, indent=0) + "\n")
        return
    lines = complaints(found, json.loads(FLOORS.read_text()))
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
