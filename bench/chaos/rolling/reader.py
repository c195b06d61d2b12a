"""A client that continues a request at another gateway."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from bench.harness.report import counts

# HTTP statuses after which a request may be repeated.
_PASSING: Final = frozenset({409, 429, 503, 504})
_BETWEEN_TRIES_S: Final = 0.05


class GivenUpError(Exception):
    """A request was not answered, or wrongly; the text says why."""


@dataclass(slots=True)
class Answer:
    """The answer to one request, after any number of tries.

    texts, reasons: by the index of the choice. longest_wait_s: of a stream, for its first or next
    event; 0.0 for a whole answer. outcomes: counts of tries that failed.
    """

    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    num_tries: int = 0
    was_resumed: bool = False
    longest_wait_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class Reader:
    """One request, which is sent to gateways until one has answered it whole.

    It keeps its Idempotency-Key and names the last event that it has received.
    """

    def __init__(self, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self._http = http
        self._body = json.dumps(body).encode()
        self._streams = bool(body.get("stream"))
        self._headers = {
            "content-type": "application/json",
            "idempotency-key": str(uuid.uuid4()),
        }
        self._heard_at = asyncio.get_running_loop().time()
        self.answer = Answer()

    async def read(self, urls: Sequence[str], first: int, deadline_s: float) -> Answer:
        """Send the request until it is answered. Raises GivenUpError.

        urls: of the gateways. first: index of the one that is tried first.
        """
        answer = self.answer
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    url = urls[(first + answer.num_tries) % len(urls)]
                    answer.num_tries += 1
                    if not (outcome := await self._try(url)):
                        return answer
                    answer.outcomes[outcome] += 1
                    await asyncio.sleep(_BETWEEN_TRIES_S)
        except TimeoutError:
            reason = f"no whole answer within {deadline_s:g} s: {counts(answer.outcomes)}"
            raise GivenUpError(reason) from None

    async def _try(self, url: str) -> str:
        """Send the request once; return "" if the answer is complete, otherwise what happened.

        Raises GivenUpError for an error that a repetition cannot solve.
        """
        self.answer.was_resumed |= "last-event-id" in self._headers
        try:
            async with self._http.stream(
                "POST", f"{url}/completions", content=self._body, headers=self._headers
            ) as response:
                if response.status_code in _PASSING:
                    return f"status {response.status_code}"
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise GivenUpError(f"status {response.status_code} {text}")
                if self._streams:
                    return await self._read_events(response)
                self._take(json.loads(await response.aread()))
                return ""
        except httpx.TransportError:
            return "broken connection"

    async def _read_events(self, response: httpx.Response) -> str:
        """Return "" at the end of the stream, or what ended it early."""
        event_id = ""
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                event_id = line.removeprefix("id: ")
            elif line == "data: [DONE]":
                return ""
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return "error event"
                self._take(event)
                self._headers["last-event-id"] = event_id
        raise GivenUpError("a stream ended without [DONE] and without an error")

    def _take(self, body: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        answer = self.answer
        if self._streams:
            answer.longest_wait_s = max(answer.longest_wait_s, now - self._heard_at)
            self._heard_at = now
        for choice in body["choices"]:
            index, reason = choice["index"], choice["finish_reason"]
            if index in answer.reasons:
                raise GivenUpError("a choice continued after its end")
            answer.texts[index] = answer.texts.get(index, "") + choice["text"]
            if reason is not None:
                answer.reasons[index] = reason
