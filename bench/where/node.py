"""A target or draft node with clocks: `python -m bench.where.node ENDPOINT KEYS FILE ROLE OPTIONS`.

At SIGUSR2 it appends a line of JSON with the values of its clocks to FILE, for
bench/where/table.py. Its link has no keys.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airdraft.nodes.service.runtime import set_engine_environment

STEP = "step"


class Clocks:
    """Seconds and calls by name, in one thread. Calls in other threads are not timed.

    The timed thread is the first one that enters the function named `outermost`.
    """

    def __init__(self, outermost: str, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self.thread_id = 0
        self._outermost, self._now = outermost, now
        self._open: list[str] = []
        self._since = 0.0

    def around(
        self, owner: Any, function: str, name: str, count: Callable[..., None] | None = None
    ) -> None:
        """Give a function a clock. owner: the class or module in which callers look it up. count:
        called with its result and arguments after each call."""
        timed = getattr(owner, function)

        @functools.wraps(timed)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            is_timed = self._enter(name)
            try:
                result = timed(*args, **kwargs)
            finally:
                if is_timed:
                    self._leave()
            if count is not None:
                count(result, *args, **kwargs)
            return result

        setattr(owner, function, wrapper)

    def _enter(self, name: str) -> bool:
        thread_id = threading.get_native_id()
        if not self.thread_id and name == self._outermost:
            self.thread_id = thread_id
        if thread_id != self.thread_id or (not self._open and name != self._outermost):
            return False
        self._charge()
        self._open.append(name)
        self.calls[name] += 1
        return True

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def main(endpoint: str, _keys: str, log: str, role: str, *options: str) -> None:
    # This must precede every import that loads llama.cpp.
    set_engine_environment()
    import airdraft.nodes.target.guessing as guessing
    import airdraft.nodes.target.state as target_state
    from airdraft.nodes.cli.main import main as airdraft
    from airdraft.nodes.draft.state import DraftState
    from airdraft.nodes.engine.llama import LlamaModel
    from airdraft.nodes.engine.sampler import Sampler
    from airdraft.nodes.target.stream import TargetStream

    clocks = Clocks(STEP)
    tokens: Counter[str] = Counter()

    def committed(result: Any, *_: Any) -> None:
        tokens["committed"] += len(result[0])

    def fed(_result: Any, _model: Any, spans: Any) -> None:
        tokens["fed"] += sum(len(span.token_ids) for span in spans)

    clocks.around(LlamaModel, "forward", "model", fed)
    clocks.around(LlamaModel, "truncate", "cache")
    clocks.around(Sampler, "verify" if role == "target" else "sample", "sampling")
    if role == "target":
        clocks.around(guessing, "compose", "choosing")
        clocks.around(TargetStream, "until_end", "text", committed)
    state = target_state.TargetState if role == "target" else DraftState
    clocks.around(state, "step", STEP)

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
