"""What a mesh of the machine is made of, and what its texts must be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.messages import SubmitRequest
from tests.nodes.reference import Reference, reference

_NUM_VOCAB = 96
_TOKENIZER = ToyTokenizer(_NUM_VOCAB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """num_cells: of each target. agreements: of each draft node with them. draft_bps: of the links
    of draft nodes, as they declare it; 0.0 where they declare nothing."""

    num_cells: tuple[int, ...]
    agreements: tuple[float, ...]
    draft_bps: float = 0.0
    max_sequences: int = 4
    has_wild_policy: bool = False
    has_lookup: bool = False
    prefix_cache_bytes: int = 0
    seed: int = 0
    first_incarnation: int = 1


def config_of(setup: Setup) -> ToyConfig:
    return ToyConfig(
        num_vocab=_NUM_VOCAB, max_sequences=setup.max_sequences, max_batch_tokens=64, eog_rate=0.002
    )


def tokenized(text: str) -> tuple[int, ...]:
    return tuple(_TOKENIZER.encode(text))


@lru_cache(maxsize=20_000)
def alone(config: ToyConfig, submit: SubmitRequest, choice: int) -> Reference:
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
        config,
        submit.prompt_token_ids or tokenized(submit.prompt),
        sampling,
        max_tokens=submit.max_tokens,
        stops=submit.stops,
        ignore_eog=submit.ignore_eog,
        num_logprobs=submit.num_logprobs,
        # Scored with the prompt of the first choice, for all of them.
        scores_prompt=submit.scores_prompt,
    )
