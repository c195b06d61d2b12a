"""Users of a simulated mesh: what they ask for, how long they think, what they got."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bench.sim.devices import Text
from bench.sim.scenario import Scenario


@dataclass(slots=True)
class ClientFigures:
    """What a client got after the warm-up: tokens, and seconds in which it waited for some."""

    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True)
class Request:
    """client: its number. num_wanted, num_sent: tokens of its answer; num_tokens: of these, sent
    after the warm-up. ready_at: when its prompt was read, negative before; last_at: when it was
    sent tokens last, or its prompt was read."""

    client: int
    num_wanted: int
    num_sent: int = 0
    num_tokens: int = 0
    ready_at: float = -1.0
    last_at: float = -1.0


class Clients:
    """Every mode of planning gets the same requests: they depend on the client and their number."""

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
        """Seconds until a client asks again."""
        think_s = self._clients[number].think_s
        return self._randoms[number].expovariate(1.0 / think_s) if think_s else 0.0

    def book(self, request: Request, now: float) -> None:
        """Count from when the prompt was read: prompts are another matter than decoding."""
        if request.ready_at >= 0:
            since = max(request.ready_at, self._warm_up_s)
            figures = self.figures[request.client]
            figures.seconds += max(0.0, now - since)
            figures.num_tokens += request.num_tokens
