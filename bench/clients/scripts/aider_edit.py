"""aider: one edit of a file by a message, as a script would have it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from asking import MODEL, URL, check

BEFORE = "def greet():\n    print('hello')\n\n\ngreet()\n"
MESSAGE = "Make greet print 'good morning' instead of 'hello'. Change nothing else."

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "greeting.py"
    file.write_text(BEFORE)
    command = [
        str(Path(sys.executable).with_name("aider")),
        *("--model", f"openai/{MODEL}", "--edit-format", "whole", "--no-git", "--yes-always"),
        *("--no-show-model-warnings", "--no-check-update", "--analytics-disable"),
        *("--no-detect-urls", "--message", MESSAGE, file.name),
    ]
    environment = {**os.environ, "HOME": folder, "OPENAI_API_BASE": URL, "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    after = file.read_text()
    ran = subprocess.run([sys.executable, str(file)], capture_output=True, text=True)
    is_right = done.returncode == 0 and ran.stdout.strip().lower() == "good morning"
    if not is_right:
        print(done.stdout[-2000:], done.stderr[-2000:], after, file=sys.stderr)
    check("an edit", is_right=is_right)
