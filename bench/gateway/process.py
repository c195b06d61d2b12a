"""Start of `server_process`, and figures of processes from the kernel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def steady_gateway(gap_s: float, num_tokens: int) -> Iterator[tuple[int, int]]:
    """Run a gateway before a SteadyMesh; yields its port and process id."""
    command = [sys.executable, "-m", "bench.gateway.server_process", str(gap_s), str(num_tokens)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline()
        yield int(url.rsplit(":", 1)[1].split("/")[0]), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def stream_request(prompt: str) -> bytes:
    """Return the bytes of an HTTP request for a streamed completion."""
    body = f'{{"prompt":"{prompt}","stream":true,"max_tokens":32768}}'.encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
