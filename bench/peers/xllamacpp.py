"""llama.cpp's own server, as the prebuilt xllamacpp wheel runs it (portable AVX2 code)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

_MODULE = "xllamacpp"


class XllamacppServer:
    """A server process on loopback, one engine thread, `num_slots` parallel slots."""

    @staticmethod
    def missing() -> str:
        """Why it cannot run here, or ""."""
        return "" if importlib.util.find_spec(_MODULE) else "skipped: pip install .[bench]"

    def __init__(self, path: str, *, num_slots: int) -> None:
        self._command = [sys.executable, "-m", "bench.peers.xllamacpp", path, str(num_slots)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        # The library prints as well; the address is the line that says so.
        while line := self._process.stdout.readline():
            if line.startswith(b"address "):
                self._url = line.decode().split()[1]
                return self
        raise RuntimeError("xllamacpp did not start")

    def tokens_per_s(self, num_streams: int, max_tokens: int) -> float:
        """Tokens/s of num_streams concurrent completions, their short prompts included."""

        def complete(index: int) -> int:
            body = {
                "prompt": [1000 + index],
                "n_predict": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
            request = urllib.request.Request(
                self._url + "/completion",
                data=json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                reply: dict[str, Any] = json.load(response)
            return int(reply["tokens_predicted"])

        start = time.perf_counter()
        with ThreadPoolExecutor(num_streams) as pool:
            total = sum(pool.map(complete, range(num_streams)))
        return total / (time.perf_counter() - start)

    def __exit__(self, *_exc: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(path: str, num_slots: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = ["127.0.0.1"]
    params.port = 18452
    params.n_parallel = num_slots
    params.n_ctx = 512 * num_slots
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(f"\naddress {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
