"""Users of a simulated mesh: their requests, their pauses, and the tokens they got."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bench.sim.scenario import Scenario, Text


@dataclass(slots=True)
class ClientFigures:
    """A client's tokens after the warm-up, and the seconds in which it waited for them."""

    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True)
class Request:
    """A running request. client: the client's number. num_wanted, num_sent: tokens of its answer.
    num_tokens: those sent after the warm-up. ready_at: time when its prompt was read, negative
    before. last_at: time when tokens were last sent, or when the prompt was read."""

    client: int
    num_wanted: int
    num_sent: int = 0
    num_tokens: int = 0
    ready_at: float = -1.0
    last_at: float = -1.0


class Clients:
    """Draws requests by client and number alone, so that all modes of planning get the same."""

    def __init__(self, scenario: Scenario) -> None:
        self._clients = scenario.clients
        self._warm_up_s = scenario.warm_up_s
        numbers = range(len(scenario.clients))
        self._randoms = [Random(f"{scenario.seed}/{number}") for number in numbers]
        self._num_asked = [0] * len(scenario.clients)
        self.figures = [ClientFigures() for _ in scenario.clients]

    def next_text(self, number: int) -> Text:
        client, random = self._clients[number], self._randoms[number]
        if client.texts:
            self._num_asked[number] += 1
            return client.texts[(self._num_asked[number] - 1) % len(client.texts)]
        max_tokens = random.randint(*client.max_tokens)
        luck = tuple(random.random() for _ in range(max_tokens))
        chances: tuple[float, ...] = ()
        if client.evenness is not None:
            a, b = (client.evenness * share for share in (client.alphas[0], 1 - client.alphas[0]))
            chances = tuple(random.betavariate(a, b) for _ in range(max_tokens))
        return Text(client.alphas, luck, chances, client.believed or ())

    def pause_s(self, number: int) -> float:
        """Return the seconds until a client sends its next request."""
        think_s = self._clients[number].think_s
        return self._randoms[number].expovariate(1.0 / think_s) if think_s else 0.0

    def book(self, request: Request, now: float) -> None:
        """Add a request to its client's figures. Only the time after its prompt was read counts."""
        if request.ready_at >= 0:
            since = max(request.ready_at, self._warm_up_s)
            figures = self.figures[request.client]
            figures.seconds += max(0.0, now - since)
            figures.num_tokens += request.num_tokens
