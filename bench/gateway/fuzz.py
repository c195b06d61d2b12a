"""Bodies of every kind at a gateway process with a toy mesh behind it: no 500, and no hang."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from hypothesis import HealthCheck, given, settings

from bench.gateway.bodies import fault_of, requests

_TOYS = ("--model", "toy:1", "--draft", "toy:0.8", "--listen", "tcp://127.0.0.1:*")
_HANG_S = 20.0


@dataclass(slots=True)
class Findings:
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        total = self.statuses.total()
        return (
            f"{total} requests ({counts}), slowest {self.slowest_s:.3f} s, "
            f"{len(self.faults)} faults{''.join(f'{chr(10)}  {f}' for f in self.faults[:20])}"
        )


@contextlib.contextmanager
def toy_gateway(**environ: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A mesh of toy models with its API: the API's base URL, and the process."""
    command = [sys.executable, "-m", "nodes.cli", "up", *_TOYS, "--http", "127.0.0.1:0"]
    with tempfile.TemporaryDirectory() as keys:
        environment = {**os.environ, "AIRDRAFT_KEYS": keys, **environ}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            yield lines[1].removeprefix("OpenAI API at ").strip(), process
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def run_fuzz(num_examples: int) -> Findings:
    findings = Findings()
    # Texts are short: it is bodies that are tried here.
    with (
        toy_gateway(AIRDRAFT_LIMITS__MAX_TOKENS="8") as (url, process),
        httpx.Client(base_url=url.removesuffix("/v1"), timeout=_HANG_S) as client,
    ):

        @settings(
            max_examples=num_examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests)
        def ask(request: tuple[str, bytes]) -> None:
            if process.poll() is not None:
                # One fault is enough: nothing answers any more.
                return
            path, body = request
            began = time.monotonic()
            headers = {"content-type": "application/json"}
            try:
                answer = client.post(path, content=body, headers=headers)
            except httpx.HTTPError as error:
                findings.faults.append(f"{type(error).__name__} of {body!r}")
                return
            findings.slowest_s = max(findings.slowest_s, time.monotonic() - began)
            findings.statuses[answer.status_code] += 1
            is_stream = answer.headers["content-type"].startswith("text/event-stream")
            if fault := fault_of(answer.status_code, answer.content, is_stream=is_stream):
                findings.faults.append(f"{fault} of {body!r}")

        ask()
        if process.poll() is not None:
            findings.faults.append(f"the gateway ended with code {process.returncode}")
    return findings
