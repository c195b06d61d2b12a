"""Description of a simulated mesh: its devices, links, users, and the texts that they want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from airdraft.policies.latency import NodeCosts
from airdraft.policies.plan import Link
from bench.emulate.cell import Cell

_UNSURE: Final = 0.5
# The link of a target on the coordinator's machine.
NEAR: Final = Link(rtt_s=2e-4)


@dataclass(frozen=True, slots=True)
class Text:
    """How hard a stream's tokens are to guess.

    alphas: chance of a guess by its place after the last committed token. luck: (max_tokens,), a
    number in [0, 1) for each output token; a guess of it is right if this is below its chance. By
    law 1 the luck, like the text, is the same for every mode of planning. chances: (max_tokens,),
    the chance of each output token if some are harder than others and the draft model knows it; ()
    if all are alike. believed: the draft model's own estimate of alphas; () if it has none.
    num_prompt_tokens: length of the text's own prompt; 0 if the client sets it. prompt: number of
    the prompt, by which targets keep prompts that they have read; None if it has no number.
    token_ids: the tokens of prompt and output, which only a target without draft nodes can have; ()
    if all are alike.
    """

    alphas: tuple[float, ...]
    luck: tuple[float, ...]
    chances: tuple[float, ...] = ()
    believed: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    prompt: int | None = None
    token_ids: tuple[int, ...] = ()

    def cut(self, num_tokens: int) -> Text:
        """Returns the same text with num_tokens tokens of output."""
        return replace(self, luck=self.luck[:num_tokens], chances=self.chances[:num_tokens])

    def guess(self, place: int, after: int) -> tuple[bool, float]:
        """Returns whether a draft model's guess of an output token is right, and its confidence.

        after: the token's place after the last committed one. The confidence is the token's own
        chance if known, else the believed one, else constant.
        """
        if place >= len(self.luck):
            return False, _UNSURE
        if self.chances:
            return self.luck[place] < self.chances[place], self.chances[place]
        is_right = self.luck[place] < _at(self.alphas, after)
        return is_right, _at(self.believed, after) if self.believed else _UNSURE


def _at(values: Sequence[float], place: int) -> float:
    """Returns the value at a place, or the last value beyond the end."""
    return values[min(place, len(values) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDraftNode:
    """A draft node. believed: the costs that the scheduler receives; None for the true ones.
    away: (from, to) in seconds, the time in which the node is absent.
    """

    costs: NodeCosts
    link: Link
    believed: NodeCosts | None = None
    away: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimClient:
    """A user who sends the next request some seconds after each answer.

    alphas: acceptance by place after the last committed token. believed: the draft models' belief
    of it; None if it is learnt. evenness: None if all tokens are alike. Otherwise each token has a
    chance of its own, which draft models know, from a beta distribution with mean alphas[0]; the
    greater evenness is, the more alike they are. weight: weight in the plan's objective. texts:
    texts requested in turns; if empty, texts are drawn.
    """

    alphas: tuple[float, ...] = ()
    num_prompt_tokens: int = 1
    max_tokens: tuple[int, int] = (1, 1)
    think_s: float = 0.0
    starts_at: float = 0.0
    believed: tuple[float, ...] | None = None
    evenness: float | None = None
    weight: float = 1.0
    texts: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a run depends on except the mode of planning. looks_up: whether the target
    looks for guesses in its texts. cell: what all links with a medium share, with the stations
    draft-0, draft-1, ... and target-0; by default a medium of their rates, first come first served.
    """

    seed: int
    target: NodeCosts
    drafts: tuple[SimDraftNode, ...]
    clients: tuple[SimClient, ...]
    duration_s: float
    warm_up_s: float = 0.0
    noise: float = 0.05
    target_link: Link = NEAR
    cell: Cell | None = None
    looks_up: bool = False


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
    """A running request. num_wanted, num_sent: tokens of its answer. ready_at: time when its prompt
    was read, negative before. last_at: time when tokens were last sent, or when the prompt was
    read."""

    client: Client
    num_wanted: int
    num_sent: int = 0
    ready_at: float = -1.0
    last_at: float = -1.0


class Client:
    """A user of a scenario. The n-th request of a user is the same in all modes of planning."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        self.name = f"client-{number}"
        self.settings = scenario.clients[number]
        self.figures = ClientFigures()
        self._warm_up_s = scenario.warm_up_s
        self._random = Random(f"{scenario.seed}/{number}")
        self._num_asked = 0

    def next_text(self) -> Text:
        wanted, random = self.settings, self._random
        if wanted.texts:
            self._num_asked += 1
            return wanted.texts[(self._num_asked - 1) % len(wanted.texts)]
        max_tokens = random.randint(*wanted.max_tokens)
        luck = tuple(random.random() for _ in range(max_tokens))
        chances: tuple[float, ...] = ()
        if wanted.evenness is not None:
            a, b = (wanted.evenness * share for share in (wanted.alphas[0], 1 - wanted.alphas[0]))
            chances = tuple(random.betavariate(a, b) for _ in range(max_tokens))
        return Text(wanted.alphas, luck, chances, wanted.believed or ())

    def pause_s(self) -> float:
        """Returns the seconds until the next request."""
        think_s = self.settings.think_s
        return self._random.expovariate(1.0 / think_s) if think_s else 0.0

    def book(self, request: Request, now: float) -> None:
        """Add the time of a request to the figures. Only that after its prompt was read counts."""
        if request.ready_at >= 0:
            self.figures.seconds += max(0.0, now - max(request.ready_at, self._warm_up_s))
