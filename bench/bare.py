"""The reference of speed: a minimal llama.cpp loop in a process of its own.

It reads lines `NUM_STREAMS MAX_TOKENS PROMPT_TOKENS` and prints the tokens/s of its decode steps.
Where MAX_TOKENS is 0, it prints the seconds from a prompt of that length to the next token.
Settings and kernels are those of a target node with profile exact. Tokens are chosen by argmax.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from airdraft.nodes.engine.kernels.library import register
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.service.runtime import set_engine_environment

set_engine_environment()

SKIPPED_STEPS = 8
MOST_STREAMS = 16
_CELLS = 8192


def main(path: str) -> None:
    """Run the loop on a model until standard input ends."""
    import llama_cpp
    import numpy as np

    callback = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    is_careful = bool(register(llama_cpp.__version__).missing)
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx = _CELLS
    context_params.n_batch = 256
    context_params.n_ubatch = 32 if is_careful else 512
    context_params.n_seq_max = MOST_STREAMS
    context_params.n_threads = context_params.n_threads_batch = 1
    context_params.flash_attn_type = 1
    context_params.kv_unified = True
    context = llama_cpp.llama_init_from_model(model, context_params)
    memory = llama_cpp.llama_get_memory(context)
    num_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(256, 0, 1)

    def decode(tokens: list[tuple[int, int, int]], num_outputs: int | None = None) -> list[int]:
        """Run (sequence, position, token) triples; return next tokens of the last num_outputs."""
        num_outputs = len(tokens) if num_outputs is None else num_outputs
        batch.n_tokens = len(tokens)
        for index, (seq_id, position, token_id) in enumerate(tokens):
            batch.token[index] = token_id
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = seq_id
            batch.logits[index] = index >= len(tokens) - num_outputs
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        pointer = llama_cpp.llama_get_logits(context)
        logits = np.ctypeslib.as_array(pointer, shape=(num_outputs, num_vocab))
        return [int(row.argmax()) for row in logits]

    def read(stream: int, prompt: Sequence[int]) -> None:
        for first in range(0, len(prompt), 256):
            part = enumerate(prompt[first : first + 256], first)
            decode([(stream, position, token_id) for position, token_id in part], 1)

    print("ready", flush=True)
    for line in sys.stdin:
        num_streams, max_tokens, num_prompt = map(int, line.split())
        llama_cpp.llama_memory_clear(memory, False)
        if max_tokens == 0:
            start = time.perf_counter()
            read(0, range(1000, 1000 + num_prompt))
            print(time.perf_counter() - start, flush=True)
            continue
        current = list(range(1000, 1000 + num_streams))
        for stream, token_id in enumerate(current):
            read(stream, [token_id] * num_prompt)
        start = 0.0
        for position in range(max_tokens):
            if position == SKIPPED_STEPS:
                start = time.perf_counter()
            current = decode([(s, num_prompt + position, current[s]) for s in range(num_streams)])
        seconds = time.perf_counter() - start
        print(num_streams * (max_tokens - SKIPPED_STEPS) / seconds, flush=True)


class BareLoop:
    """Handle of the process that runs the bare loop."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bare", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._stdout: IO[str] = self._process.stdout
        if self._stdout.readline().strip() != "ready":
            raise EngineError(f"the bare loop did not start with {path}")

    def measure(self, num_streams: int, max_tokens: int, num_prompt_tokens: int = 0) -> float:
        """Returns the tokens/s of one run in which each stream has a prompt of the given length.

        Raises EngineError if the loop has no room for it.
        """
        num_tokens = num_streams * (num_prompt_tokens + max_tokens)
        if num_streams > MOST_STREAMS or num_tokens > _CELLS:
            raise EngineError(
                f"the bare loop has room for {MOST_STREAMS} streams and {_CELLS:,} tokens, not for "
                f"{num_streams} and {num_tokens:,}: measure fewer streams or shorter texts"
            )
        self._stdin.write(f"{num_streams} {max_tokens} {num_prompt_tokens}\n")
        self._stdin.flush()
        return float(self._stdout.readline())

    def prefill_s(self, num_tokens: int) -> float:
        """Returns the seconds from a prompt of num_tokens tokens to the token after it."""
        return self.measure(1, 0, num_tokens)

    def close(self) -> None:
        self._stdin.close()
        self._process.wait(10)
        self._stdout.close()


if __name__ == "__main__":
    main(sys.argv[1])
