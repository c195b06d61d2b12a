"""The real pair instead of toy models: SmolLM2 with profile exact, and its default draft."""

from __future__ import annotations

from random import Random

from bench.chaos.cases import Case, sampling_of, undisturbed
from bench.chaos.fleet.fleet import Setup
from bench.prompts import make_prompts
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from nodes.client.generation import GenerateOptions
from nodes.config.settings import EngineSettings
from nodes.worker.engines import open_engine, tokenizer_of

# The first prompts of each hundred are long, and a run would spend all its time reading them.
_NUM_LONG = 4


def real_setup() -> Setup:
    return Setup(target_model=DEFAULT_TARGET, draft_model=DEFAULT_DRAFT)


def real_cases(random: Random, count: int) -> list[Case]:
    """Draw requests, with undisturbed texts from an engine that is opened as a target opens it.

    The engine runs in this process and is closed again.
    """
    opened = open_engine(EngineSettings(model=DEFAULT_TARGET))
    tokenizer = tokenizer_of(opened)
    cases = []
    try:
        for text in make_prompts(_NUM_LONG + count, seed=random.randrange(1 << 30))[_NUM_LONG:]:
            ids = tuple(tokenizer.encode(text))
            is_sampled = random.random() < 0.5
            options = GenerateOptions(
                max_tokens=random.randrange(24, 96),
                temperature=0.8 if is_sampled else 0.0,
                top_k=40 if is_sampled else 0,
                top_p=0.95 if is_sampled else 1.0,
                seed=random.randrange(1 << 40),
            )
            expected = undisturbed(
                opened.model,
                tokenizer.piece,
                ids,
                sampling_of(options, 0),
                max_tokens=options.max_tokens,
            )
            cases.append(Case(ids, options, (expected,)))
    finally:
        opened.model.close()
    return cases
