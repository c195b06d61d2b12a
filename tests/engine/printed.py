"""What a script prints in a process of its own, and whether a process runs."""

import os
import subprocess
import sys
from pathlib import Path


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


def is_running(process: int) -> bool:
    """Not a zombie either, whose exit code nobody has taken."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
