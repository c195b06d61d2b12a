"""Meshes of several draft nodes and targets: texts are those of plain decoding."""

from __future__ import annotations

import re

from click.testing import CliRunner

from bench.live.mixed import MESHES, mixed_command


def test_every_mesh_has_a_row_and_the_texts_of_plain_decoding() -> None:
    made = CliRunner().invoke(mixed_command, "--streams 2 --max-tokens 24 --turns 1")
    assert made.exit_code == 0, made.output
    rows = made.output.splitlines()[2:-1]
    for (name, (_, drafts)), row in zip(MESHES.items(), rows, strict=True):
        assert row.startswith(f"| {name} |")
        assert row.endswith("| 2 of 2 |")
        guesses = re.search(r"(\d+) guesses", row)
        assert (guesses is not None and int(guesses[1]) > 0) == bool(drafts), row
