"""Description of a simulated mesh: its devices, links, users, and the texts that they want."""

from __future__ import annotations

from dataclasses import dataclass, replace

from policies.latency import NodeCosts
from policies.plan import Link


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
        """Return the same text with num_tokens tokens of output."""
        return replace(self, luck=self.luck[:num_tokens], chances=self.chances[:num_tokens])


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

    alphas: tuple[float, ...]
    num_prompt_tokens: int
    max_tokens: tuple[int, int]
    think_s: float
    starts_at: float
    believed: tuple[float, ...] | None = None
    evenness: float | None = None
    weight: float = 1.0
    texts: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a run depends on except the mode of planning. target_link: link of a target
    on a medium. target_delay_s: one-way delay to the target if there is no target_link. looks_up:
    whether the target looks for guesses in its texts.
    """

    seed: int
    target: NodeCosts
    drafts: tuple[SimDraftNode, ...]
    clients: tuple[SimClient, ...]
    duration_s: float
    warm_up_s: float = 0.0
    noise: float = 0.05
    target_delay_s: float = 1e-4
    target_link: Link | None = None
    looks_up: bool = False
