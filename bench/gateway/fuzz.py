"""Fuzzing of a gateway process with a toy mesh: no body may cause a status of 500 or a hang."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
from hypothesis import HealthCheck, given, settings

from bench.gateway.bodies import fault_of, requests
from bench.harness.report import Findings
from bench.harness.up import TOYS, up

_HANG_S = 20.0


@dataclass(slots=True)
class Fuzzed(Findings):
    """Counts of answers by status, and the longest time of a request."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def summary(self) -> list[str]:
        by_status = ", ".join(
            f"{status}: {count}" for status, count in sorted(self.statuses.items())
        )
        total = self.statuses.total()
        return [f"{total} requests ({by_status}), slowest {self.slowest_s:.3f} s"]


def run_fuzz(num_examples: int) -> Fuzzed:
    findings = Fuzzed()
    # Texts are short, because bodies are tested here.
    with (
        up(*TOYS, AIRDRAFT_LIMITS__MAX_TOKENS="8") as mesh,
        httpx.Client(base_url=mesh.url.removesuffix("/v1"), timeout=_HANG_S) as client,
    ):

        @settings(
            max_examples=num_examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests)
        def ask(request: tuple[str, bytes]) -> None:
            if mesh.process.poll() is not None:
                # The gateway has ended, which is reported once below.
                return
            path, body = request
            began = time.monotonic()
            headers = {"content-type": "application/json"}
            try:
                answer = client.post(path, content=body, headers=headers)
            except httpx.HTTPError as error:
                waited_s = time.monotonic() - began
                what = f"{type(error).__name__} ({error}) after {waited_s:.3f} s"
                findings.faults.append(f"{what} of {body!r}")
                return
            findings.slowest_s = max(findings.slowest_s, time.monotonic() - began)
            findings.statuses[answer.status_code] += 1
            is_stream = answer.headers["content-type"].startswith("text/event-stream")
            if fault := fault_of(answer.status_code, answer.content, is_stream=is_stream):
                findings.faults.append(f"{fault} of {body!r}")

        ask()
    findings.faults += mesh.faults
    return findings
