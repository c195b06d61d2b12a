"""Meshes of several draft nodes and targets: texts are those of plain decoding."""

from __future__ import annotations

import re

from bench.live.mixed import MESHES, run_mixed


async def test_every_mesh_has_a_row_and_the_texts_of_plain_decoding() -> None:
    rows: list[str] = []
    found = await run_mixed(2, 24, 1, rows.append)
    assert found.faults == []
    assert len(rows) == 1 + len(MESHES)
    for mesh, row in zip(MESHES, rows[1:], strict=True):
        assert row.startswith(f"| {mesh.name} |")
        assert row.endswith("| 2 of 2 |")
        guesses = re.search(r"(\d+) guesses", row)
        assert (guesses is not None and int(guesses[1]) > 0) == bool(mesh.drafts), row
