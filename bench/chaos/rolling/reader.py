"""A client that continues a request at another gateway.

It sends the same Idempotency-Key and the id of the last event that it has received.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

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
    """Sends requests, streamed or whole, until answered. urls: returns the gateways' URLs."""

    def __init__(
        self, http: httpx.AsyncClient, urls: Callable[[], list[str]], deadline_s: float
    ) -> None:
        self._http = http
        self._urls = urls
        self._deadline_s = deadline_s

    async def ask(self, body: dict[str, Any], first: int) -> Answer:
        """Send a request until it is answered. Raises GivenUpError.

        first: index of the gateway that is tried first.
        """
        answer = Answer()
        asking = _Asking(self._http, body, answer)
        try:
            async with asyncio.timeout(self._deadline_s):
                while True:
                    urls = self._urls()
                    url = urls[(first + answer.num_tries) % len(urls)]
                    answer.num_tries += 1
                    if await asking.is_done_by(url):
                        return answer
                    await asyncio.sleep(_BETWEEN_TRIES_S)
        except TimeoutError:
            tries = ", ".join(f"{count} x {what}" for what, count in answer.outcomes.items())
            reason = f"no whole answer within {self._deadline_s:g} s: {tries}"
            raise GivenUpError(reason) from None


class _Asking:
    """One request, which may be sent several times."""

    def __init__(self, http: httpx.AsyncClient, body: dict[str, Any], answer: Answer) -> None:
        self._http = http
        self._body = json.dumps(body).encode()
        self._streams = bool(body.get("stream"))
        self._answer = answer
        self._headers = {
            "content-type": "application/json",
            "idempotency-key": str(uuid.uuid4()),
        }
        self._heard_at = asyncio.get_running_loop().time()

    async def is_done_by(self, url: str) -> bool:
        """Send the request once; return whether the answer is complete.

        Raises GivenUpError for an error that a repetition cannot solve.
        """
        answer = self._answer
        last = self._headers.get("last-event-id", "")
        answer.was_resumed |= bool(last)
        outcome = "broken connection"
        try:
            async with self._http.stream(
                "POST", f"{url}/completions", content=self._body, headers=self._headers
            ) as response:
                if response.status_code in _PASSING:
                    outcome = f"status {response.status_code}"
                elif response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise GivenUpError(f"status {response.status_code} {text}")
                elif self._streams:
                    if await self._read_events(response):
                        return True
                    outcome = "error event"
                else:
                    self._take(json.loads(await response.aread()))
                    return True
        except httpx.TransportError:
            pass
        answer.outcomes[outcome] += 1
        return False

    async def _read_events(self, response: httpx.Response) -> bool:
        """Return whether the stream reached its end; an error event ends it early."""
        event_id = ""
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                event_id = line.removeprefix("id: ")
            elif line == "data: [DONE]":
                return True
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return False
                self._take(event)
                self._headers["last-event-id"] = event_id
        raise GivenUpError("a stream ended without [DONE] and without an error")

    def _take(self, body: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        answer = self._answer
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
