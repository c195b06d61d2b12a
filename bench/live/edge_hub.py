"""The hub of the edge cell, in a process of its own: a coordinator in some mode, and clients.

Its arguments are endpoint, keys of the clients, and one JSON object, a Task. It prints another one,
a Figures. Clients form a closed loop: each stream requests its next text as soon as it has one.
First texts have unequal lengths. Otherwise all streams would end together in waves, and a short run
would measure an arbitrary part of one. All tokens are compared with the recording.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from bench.asking import Taken
from bench.emulate.recording import RecordedText, read_recording
from bench.live.edge_setting import RECORDING, first_length
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.coordinator.service import Coordinator
from nodes.keys.keyring import Keyring
from nodes.messages import FinishedNotice, TokensNotice
from nodes.scheduler.planning import MODES, observed_price_s, predicted_price_s
from nodes.service.runtime import set_engine_environment

_START_LIMIT_S = 120.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run. coordinator: directory of its keys. texts: indices in the recording, used in turns.
    num_nodes: target and drafts.
    """

    policy: str
    coordinator: str
    texts: list[int]
    num_streams: int
    num_nodes: int
    warm_up_s: float
    seconds: float


@dataclass(slots=True)
class Figures(Taken):
    """Figures of a run. tokens_per_s: rate of all streams. promised: observed price over the
    predicted price of the plan in force. token_s: mean over streams of seconds a token, which plans
    minimise. errors: by stage, median and p95 of errors of predicted times.
    """

    tokens_per_s: float = 0.0
    promised: float = 0.0
    token_s: float = 0.0
    num_texts: int = 0
    num_wrong: int = 0
    wire_bytes: int = 0
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    RATES: ClassVar = ("tokens_per_s", "promised", "token_s")
    COUNTS: ClassVar = (
        *("num_rounds", "num_plain_steps", "num_guesses", "num_accepted"),
        *("num_texts", "num_wrong", "wire_bytes"),
    )


class _Loop:
    """Streams that send requests without end, and the figures of their answers."""

    def __init__(self, client: Client, texts: Sequence[RecordedText]) -> None:
        self._client, self._texts = client, texts
        # Tokens received, by stream.
        self.num_tokens = Counter[int]()
        self.figures = Figures()

    async def stream(self, number: int, num_streams: int) -> None:
        turn = number
        while True:
            text = self._texts[turn % len(self._texts)]
            expected = text.output_ids
            if turn == number:
                expected = expected[: first_length(len(expected), number, num_streams)]
            turn += num_streams
            options = GenerateOptions(max_tokens=len(expected), ignore_eog=True)
            got: list[int] = []
            async for event in self._client.generate(text.prompt_ids, options):
                if isinstance(event, TokensNotice):
                    got += event.token_ids
                    self.num_tokens[number] += len(event.token_ids)
                elif isinstance(event, FinishedNotice):
                    self.figures.add(event.figures)
                    self.figures.wire_bytes += event.figures.draft_wire_bytes
            self.figures.num_texts += 1
            self.figures.num_wrong += got != list(expected)


async def serve(endpoint: str, keys: str, task: Task) -> Figures:
    """Run one policy for the task's time and return its figures."""
    recording = read_recording(RECORDING)
    texts = [recording.texts[place] for place in task.texts]
    ring = Keyring(Path(task.coordinator))
    with ZmqContext() as context, ZmqContext() as clients:
        coordinator = Coordinator(
            context.bind(endpoint, ring.server_keys(endpoint)),
            authorized=ring.authorized,
            heartbeat_timeout_s=5.0,
            mode=MODES[task.policy],
        )
        own = Keyring(Path(keys)).client_keys(endpoint)
        client = Client(clients.connect(endpoint, own), endpoint=endpoint)
        serving = [asyncio.create_task(coordinator.run()), asyncio.create_task(client.run())]
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                present = 0
                while present < task.num_nodes:
                    await asyncio.sleep(_POLL_S)
                    present = len((await client.nodes()).nodes)
            loop = _Loop(client, texts)
            count = task.num_streams
            serving += [asyncio.create_task(loop.stream(k, count)) for k in range(count)]
            await asyncio.sleep(task.warm_up_s)
            return await _measured(coordinator, loop, task, serving)
        finally:
            coordinator.say_bye()
            for running in serving:
                running.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


async def _measured(
    coordinator: Coordinator, loop: _Loop, task: Task, serving: Sequence[asyncio.Task[None]]
) -> Figures:
    clock = asyncio.get_running_loop().time
    before, began = loop.num_tokens.copy(), clock()
    promised = []
    while clock() < began + task.seconds:
        await asyncio.sleep(_POLL_S)
        for running in serving:
            if running.done():
                running.result()
        for _, scheduler in coordinator.state.roster.schedulers():
            observed_s, predicted_s = observed_price_s(scheduler), predicted_price_s(scheduler)
            if predicted_s and observed_s:
                promised.append(observed_s / predicted_s)
    figures = loop.figures
    seconds = clock() - began
    got = [loop.num_tokens[k] - before[k] for k in range(task.num_streams)]
    figures.tokens_per_s = sum(got) / seconds
    figures.token_s = sum(seconds / max(1, num) for num in got) / len(got)
    figures.promised = sum(promised) / len(promised) if promised else 0.0
    figures.errors = {
        stage: (error.median, error.p95)
        for _, scheduler in coordinator.state.roster.schedulers()
        for stage, error in scheduler.counts.errors().items()
        if error.num_seen
    }
    return figures


def main() -> None:
    endpoint, keys, task = sys.argv[1:]
    figures = asyncio.run(serve(endpoint, keys, Task(**json.loads(task))))
    print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    set_engine_environment()
    main()
