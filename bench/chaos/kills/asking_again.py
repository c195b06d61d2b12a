"""A client over HTTP that asks again, by its key, for an answer that was cut off."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import httpx

from airdraft.nodes.client.client import RequestFailedError
from bench.harness.cases import Case
from bench.harness.history import ClientEvent, Record
from bench.harness.work import PATIENCE_S, until_end

# HTTP statuses after which a request may be repeated.
_PASSING: Final = frozenset({409, 429, 503, 504})
_BETWEEN_TRIES_S: Final = 0.05
# Options that a completion has under the same names. Rules are left out.
_SAME: Final = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed")


class Reader:
    """One request, which is sent to gateways with one key until one has answered it whole.

    came_again: whether a part that it had came again. outcomes: counts of tries that failed.
    longest_wait_s: of a stream, for the first or next text that it did not have.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        number: int,
        case: Case,
        deadline_s: float,
        *,
        is_stream: bool,
    ) -> None:
        self.came_again = False
        self.outcomes = Counter[str]()
        self.longest_wait_s = 0.0
        self._http = http
        self._is_stream = is_stream
        options = case.options
        body = {name: getattr(options, name) for name in _SAME}
        body |= {"n": options.num_choices, "stop": options.stops, "stream": is_stream}
        self._body = json.dumps({"prompt": case.prompt, **body}).encode()
        self._headers = {"content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
        self._now = asyncio.get_running_loop().time
        self._record = Record(number, case, self._now(), deadline_s, has_token_ids=False)
        self._heard_at = self._record.asked_at_s
        # Bytes of text that came by this try, and by the one that came furthest.
        self._num_bytes = self._most_bytes = 0

    async def read(self, urls: Sequence[str], first: int) -> Record:
        """Send the request until it is answered or its deadline is over.

        urls: bases of the gateways' APIs. first: index of the one that is tried first.
        """
        async with until_end(self._record, self._record.deadline_s):
            for turn in range(first, 1 << 30):
                if not (outcome := await self._try(urls[turn % len(urls)])):
                    break
                self.outcomes[outcome] += 1
                await asyncio.sleep(_BETWEEN_TRIES_S)
        return self._record

    async def read_once(self, url: str) -> Record:
        """Send the request once; what ends it early is a failure."""
        deadline_s = self._record.deadline_s
        limit_s = None if deadline_s is None else deadline_s + PATIENCE_S
        async with until_end(self._record, limit_s):
            if outcome := await self._try(url):
                raise RequestFailedError("http", outcome)
        return self._record

    async def _try(self, url: str) -> str:
        """Send the request once; return "" if the answer is complete, otherwise what happened.

        Raises RequestFailedError if it is wrong, or if repeating the request is of no use.
        """
        self.came_again |= bool(self._record.events)
        self._record.begin_again()
        self._num_bytes = 0
        try:
            async with self._http.stream(
                "POST", f"{url}/completions", content=self._body, headers=self._headers
            ) as response:
                if response.status_code in _PASSING:
                    return f"status {response.status_code}"
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise RequestFailedError(f"status {response.status_code}", text)
                if self._is_stream:
                    return await self._read_events(response)
                self._take(json.loads(await response.aread()))
                return ""
        except httpx.TransportError:
            return "broken connection"

    async def _read_events(self, response: httpx.Response) -> str:
        """Returns "" at the end of the stream, or what ended it early."""
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return ""
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return "error event"
                self._take(event)
                if self._num_bytes > self._most_bytes:
                    now, self._most_bytes = self._now(), self._num_bytes
                    self.longest_wait_s = max(self.longest_wait_s, now - self._heard_at)
                    self._heard_at = now
        raise RequestFailedError("cut", "a stream ended without [DONE] and without an error")

    def _take(self, body: dict[str, Any]) -> None:
        now, events = self._now(), self._record.events
        for choice in body["choices"]:
            index, reason = choice["index"], choice["finish_reason"]
            text = choice["text"].encode()
            self._num_bytes += len(text)
            events.append(ClientEvent(now, "tokens", index, text=text))
            if reason is not None:
                events.append(ClientEvent(now, "finished", index, reason=reason))
