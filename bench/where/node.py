"""A target or draft node with clocks: `python -m bench.where.node ENDPOINT KEYS FILE ROLE OPTIONS`.

At SIGUSR2 it appends a line of JSON with the values of its clocks to FILE, for bench/where/run.py.
Its link has no keys.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.where.clock import Clocks, counted
from nodes.service.runtime import set_engine_environment

STEP = "step"


def main(endpoint: str, _keys: str, log: str, role: str, *options: str) -> None:
    # This must precede every import that loads llama.cpp.
    set_engine_environment()
    import nodes.target.state as target_state
    from nodes.cli.main import main as airdraft
    from nodes.draft.state import DraftState
    from nodes.engine.llama import LlamaModel
    from nodes.engine.sampler import Sampler
    from nodes.target.stream import TargetStream

    clocks = Clocks(STEP)
    tokens: Counter[str] = Counter()
    clocks.around(LlamaModel, "forward", "model")
    clocks.around(LlamaModel, "truncate", "cache")
    clocks.around(Sampler, "verify" if role == "target" else "sample", "sampling")
    if role == "target":
        clocks.around(target_state, "compose", "choosing")
        clocks.around(TargetStream, "until_end", "text")
        clocks.around(target_state.TargetState, "step", STEP)

        def committed(result: Any, *_: Any) -> None:
            tokens["committed"] += len(result[0])

        counted(TargetStream, "until_end", committed)
    else:
        clocks.around(DraftState, "step", STEP)

    def fed(_result: Any, _model: Any, spans: Any) -> None:
        tokens["fed"] += sum(len(span.token_ids) for span in spans)

    counted(LlamaModel, "forward", fed)

    def write_clocks(*_: Any) -> None:
        values = {
            "at": time.perf_counter(),
            **{f"seconds in {name}": s for name, s in clocks.seconds.items()},
            **{f"calls of {name}": count for name, count in clocks.calls.items()},
            **{f"tokens {name}": count for name, count in tokens.items()},
            "engine_cpu_s": _thread_cpu_s(clocks.thread_id),
            "cpu_s": time.process_time(),
        }
        with Path(log).open("a") as out:
            out.write(json.dumps(values) + "\n")

    signal.signal(signal.SIGUSR2, write_clocks)
    sys.argv = [sys.argv[0], role, "--connect", endpoint, "--name", f"{role}-0", *options]
    airdraft()


def _thread_cpu_s(thread_id: int) -> float:
    if not thread_id:
        return 0.0
    return int(Path(f"/proc/self/task/{thread_id}/schedstat").read_text().split()[0]) * 1e-9


if __name__ == "__main__":
    main(*sys.argv[1:])
