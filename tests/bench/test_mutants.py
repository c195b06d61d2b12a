"""Faults planted in a package, and the tests that find them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.mutants import ROOT, mutants_of

SOURCE = '''"""A module."""
def most(values: list[int], limit: int = 3) -> int:
    """The docstring has 1 < 2."""
    found = 0
    for value in values:
        if not value < limit and value != 7:
            found += value
    values.sort()
    if found < 0:
        raise ValueError("1 + 1")
    return found
'''


def test_every_fault_changes_one_place_of_code_and_no_text(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    found = list(mutants_of(path))
    whole = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in found:
        lines = mutant.source.splitlines()
        assert sum(a != b for a, b in zip(whole, lines, strict=True)) == 1
        assert "1 < 2" in mutant.source
        assert "'1 + 1'" in mutant.source
    assert {mutant.what for mutant in found} >= {
        "Lt becomes LtE",
        "NotEq becomes Eq",
        "and becomes or",
        "not is left out",
        "3 becomes 4",
        "without found += value",
        "without values.sort()",
        "not (found < 0)",
    }


@pytest.mark.slow
def test_the_tests_of_the_codec_find_faults() -> None:
    command = [sys.executable, "-m", "bench.mutants", "codec", "--count", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (num_found,) = re.findall(r"codec: (\d) of 4 faults found", done.stdout)
    assert int(num_found) >= 2
