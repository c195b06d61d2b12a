"""The command line with emulated nodes: nodes that it starts are of the same program."""

import subprocess
import sys
from pathlib import Path

from bench.emulate.replay import read_config

NODES = Path(__file__).parents[3] / "bench" / "emulate" / "nodes"


def test_a_mesh_of_emulated_nodes_answers_as_recorded(tmp_path: Path) -> None:
    target = NODES / "agx-orin-llama-3.1-8b.toml"
    recording = read_config(target).recording
    text = recording.texts[0]
    arguments = ["run", "--model", f"replay:{target}", "--draft", "none", "--prompt", text.prompt]
    done = subprocess.run(
        [sys.executable, "-m", "bench.harness.airdraft", *arguments, "--max-tokens", "8"],
        cwd=NODES.parents[2],
        env={"PYTHONPATH": str(NODES.parents[2]), "AIRDRAFT_KEYS": str(tmp_path)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pieces = (recording.pieces[token_id] for token_id in text.output_ids[:8])
    assert done.stdout.rstrip(b"\n") == b"".join(pieces).rstrip(b"\n")
