"""The `llm` command: its model is one line of a file, as its documentation has it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from asking import MODEL, URL, WHERE, check

with tempfile.TemporaryDirectory() as folder:
    models = Path(folder) / "extra-openai-models.yaml"
    models.write_text(
        f"- model_id: local\n  model_name: {MODEL}\n  api_base: {URL}\n  supports_schema: true\n"
    )

    def llm(*arguments: str) -> str:
        """What the command says."""
        command = [str(Path(sys.executable).with_name("llm")), "-m", "local", *arguments]
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        return done.stdout if done.returncode == 0 else f"failed: {done.stderr}"

    check("a prompt", is_right="Paris" in llm(WHERE))
    check("a prompt, not streamed", is_right="Paris" in llm("--no-stream", WHERE))
    check("a schema", is_right='"city"' in llm("--schema", "city, country", WHERE))
