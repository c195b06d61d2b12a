"""The client process of one place: streams that send one request after another, and results.

    python -m bench.chaos.links.clients ENDPOINT KEYS RECORDING NUM_STREAMS FIRST_TEXT

All tokens are compared with the recording, which is the undisturbed run. The process prints
`joined`. It answers each line on standard input with a line of JSON: what the streams received
since the last one. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mesh.errors import MeshError
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client, RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.engine.recording import RecordedText, read_recording
from nodes.keys.keyring import Keyring
from nodes.messages import FinishedNotice, StreamFigures, TokensNotice

_RETRY_S = 0.2


@dataclass(slots=True)
class Heard:
    """What the streams of a place have received. Times are on the machine's monotonic clock.

    num_texts: complete texts. num_wrong: texts, complete or not, with a token that is changed,
    missing or repeated. num_rounds, num_plain: passes of complete texts with and without guesses.
    failures: counts of requests that ended with an error, by its text.

    gaps_s: for two successive notices with tokens of one text (or of a failed text and the next):
    time of the later notice, seconds since the earlier one, and tokens of prompt and text until
    then. tokens_at: times at which tokens came, and how many. waits_s: for each stream, the seconds
    since its last event or error.
    """

    num_tokens: int = 0
    num_texts: int = 0
    num_wrong: int = 0
    num_rounds: int = 0
    num_plain: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    gaps_s: list[tuple[float, float, int]] = field(default_factory=list)
    tokens_at: list[tuple[float, int]] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    @property
    def num_failed(self) -> int:
        return sum(self.failures.values())

    def faults(self) -> list[str]:
        """Return faults that no link excuses: wrong texts and failed requests."""
        found = [f"{self.num_wrong} wrong texts"] if self.num_wrong else []
        return found + ([f"requests failed: {self.failures}"] if self.failures else [])

    def tokens_per_s(self, since: float, until: float) -> float:
        """Return the rate of all streams together between two times."""
        came = sum(count for at, count in self.tokens_at if since < at <= until)
        return came / (until - since)

    @property
    def between_s(self) -> list[float]:
        return [gap_s for _, gap_s, _ in self.gaps_s]

    @property
    def guessing_share(self) -> float:
        """Share of the passes of complete texts that had guesses."""
        return self.num_rounds / max(1, self.num_rounds + self.num_plain)

    def add(self, other: Heard) -> None:
        """Add what the same streams received later."""
        for name in ("num_tokens", "num_texts", "num_wrong", "num_rounds", "num_plain"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.failures.items():
            self.failures[reason] = self.failures.get(reason, 0) + count
        self.gaps_s += other.gaps_s
        self.tokens_at += other.tokens_at
        self.waits_s = other.waits_s


class Streams:
    """The streams of one client, and what they receive."""

    def __init__(self, client: Client, texts: Sequence[RecordedText]) -> None:
        self._client, self._texts = client, texts
        self._heard = Heard()
        self._last_at: dict[int, float] = {}

    def take(self) -> Heard:
        """Return what was received since the last call."""
        heard, self._heard = self._heard, Heard()
        now = asyncio.get_running_loop().time()
        heard.waits_s = [now - at for at in self._last_at.values()]
        return heard

    async def stream(self, first: int, step: int) -> None:
        """Request every step-th text from `first` on, for ever."""
        turn = first
        # Time of the last tokens of this text, or of the one before if that failed.
        heard_at: float | None = None
        self._last_at[first] = asyncio.get_running_loop().time()
        while True:
            text = self._texts[turn % len(self._texts)]
            turn += step
            got: list[int] = []
            is_right = True
            options = GenerateOptions(max_tokens=len(text.output_ids), ignore_eog=True)
            try:
                async for event in self._client.generate(text.prompt_ids, options):
                    self._last_at[first] = asyncio.get_running_loop().time()
                    if isinstance(event, TokensNotice) and event.token_ids:
                        is_right &= event.position == len(got)
                        length = len(text.prompt_ids) + len(got)
                        got += event.token_ids
                        heard_at = self._tokens(len(event.token_ids), length, heard_at)
                    elif isinstance(event, FinishedNotice):
                        self._finished(event.figures)
                        is_right &= len(got) == len(text.output_ids)
                        heard_at = None
            except RequestFailedError as error:
                failures, reason = self._heard.failures, str(error)
                failures[reason] = failures.get(reason, 0) + 1
                self._last_at[first] = asyncio.get_running_loop().time()
                await asyncio.sleep(_RETRY_S)
            is_right &= got == list(text.output_ids[: len(got)])
            self._heard.num_wrong += not is_right

    def _finished(self, figures: StreamFigures) -> None:
        self._heard.num_texts += 1
        self._heard.num_rounds += figures.num_rounds
        self._heard.num_plain += figures.num_plain_steps

    def _tokens(self, count: int, length: int, heard_at: float | None) -> float:
        now = asyncio.get_running_loop().time()
        self._heard.num_tokens += count
        self._heard.tokens_at.append((now, count))
        if heard_at is not None:
            self._heard.gaps_s.append((now, now - heard_at, length))
        return now


async def run(endpoint: str, keys: str, recording: str, num_streams: int, first: int) -> None:
    texts = read_recording(Path(recording)).texts
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    with ZmqContext() as context:
        own = Keyring(Path(keys)).client_keys(endpoint)
        transport = context.connect(endpoint, own)
        client = Client(transport, endpoint=endpoint, join_timeout_s=None, rejoins=True)
        streams = Streams(client, texts)
        serving = asyncio.create_task(client.run())
        try:
            await client.nodes()
            print("joined", flush=True)
            asking = [
                asyncio.create_task(streams.stream(first + number, num_streams))
                for number in range(num_streams)
            ]
            while await reader.readline():
                for task in (serving, *asking):
                    if task.done():
                        task.result()
                print(json.dumps(asdict(streams.take())), flush=True)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        finally:
            client.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def main() -> None:
    endpoint, keys, recording, num_streams, first = sys.argv[1:]
    try:
        asyncio.run(run(endpoint, keys, recording, int(num_streams), int(first)))
    except MeshError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
