"""What a script prints in a process of its own."""

import os
import subprocess
import sys


def printed(script: str, *arguments: str, **environment: str) -> str:
    """environment: variables beside those of this process."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout.strip()
