"""What a mesh of the machine is made of, and what its texts must be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyTokenizer
from airdraft.nodes.messages import SubmitRequest
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.reference import Reference, reference

# Guessing pays, so that the policy asks for it.
TARGET_COSTS = NodeCosts(CostTable((1, 32), (1e-3, 2e-3)), CostTable((32,), (2e-3,)))
DRAFT_COSTS = NodeCosts(CostTable((1, 32), (1e-5, 1e-4)), CostTable((32,), (1e-4,)))
_TOY = ToyConfig(max_sequences=4, max_batch_tokens=64, eog_rate=0.002)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A mesh. toy: the model of its targets. target_cells: the cells of each target.

    drafts: how often each draft node agrees, and the room that it has. has_grammars: whether draft
    nodes have them. draft_bps: of their links, as they declare it; 0.0 where they declare nothing.
    """

    toy: ToyConfig = _TOY
    target_cells: tuple[int, ...] = (600,)
    drafts: tuple[ToyConfig, ...] = ()
    has_grammars: bool = True
    draft_bps: float = 0.0
    has_wild_policy: bool = False
    has_lookup: bool = False
    prefix_cache_bytes: int = 0
    seed: int = 0


def draft(agreement: float, num_branches: int = 0, **changes: int) -> ToyConfig:
    """One draft node of a setup. With branches half of its wrong guesses have the right one as
    their next choice."""
    room = {"num_cells": 600, "max_sequences": 4, "max_batch_tokens": 64} | changes
    swapped = 0.5 * (num_branches > 0)
    return ToyConfig(agreement=agreement, num_branches=num_branches, swapped=swapped, **room)


def tokenized(num_vocab: int, text: str) -> tuple[int, ...]:
    return tuple(ToyTokenizer(num_vocab).encode(text))


@lru_cache(maxsize=20_000)
def alone(toy: ToyConfig, submit: SubmitRequest, choice: int) -> Reference:
    sampling = Sampling(
        temperature=submit.temperature,
        top_k=submit.top_k,
        top_p=submit.top_p,
        min_p=submit.min_p,
        seed=submit.seed,
        choice=choice,
        rules=submit.rules,
    )
    return reference(
        toy,
        submit.prompt_token_ids or tokenized(toy.num_vocab, submit.prompt),
        sampling,
        max_tokens=submit.max_tokens,
        stops=submit.stops,
        ignore_eog=submit.ignore_eog,
        num_logprobs=submit.num_logprobs,
        # Scored with the prompt of the first choice, for all of them.
        scores_prompt=submit.scores_prompt,
    )
