"""Requests of many kinds, each with its undisturbed text.

The undisturbed text comes from one sequence alone in an engine, with one token per pass.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from random import Random

from airdraft.mesh.json_form import copied_from
from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.config.settings import EngineSettings
from airdraft.nodes.engine.protocol import Model
from airdraft.nodes.engine.rules import NO_RULES, LogitBias, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.worker.engines import open_engine
from bench.decoding import decoded
from bench.distill.sampling.prompts import prompts_over

# Mean of the prompts that templates make.
_TOKENS_A_TEXT = 10


def make_prompts(count: int, *, seed: int = 1, longest: int = 1500) -> list[str]:
    """Returns `count` prompts of about 20 to 60 tokens.

    Among each 100, the first has about `longest` tokens, the second 1,500, and the next two 700.
    """
    source, prompts = Random(seed), []
    texts = (prompt.text for prompt in prompts_over((), (), seed=seed).every if prompt.text)
    for index in range(count):
        num_tokens = source.randint(20, 60)
        if index % 100 < _NUM_LONG:
            num_tokens = (longest, 1500, 705, 705)[index % 100]
        prompts.append(" ".join(islice(texts, max(1, num_tokens // _TOKENS_A_TEXT))))
    return prompts


# The same model as `--model toy:1`; see nodes.service.roles.
_TOY = ToyConfig()
_REFERENCE_CELLS = 1 << 14
# The first prompts of each hundred are long, and a run would spend all its time reading them.
_NUM_LONG = 4


@dataclass(frozen=True, slots=True)
class Expected:
    """The undisturbed result of one choice of a request."""

    token_ids: tuple[int, ...]
    text: bytes
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """A request and the undisturbed result of each of its choices."""

    prompt: Prompt
    options: GenerateOptions
    expected: tuple[Expected, ...]


def undisturbed(
    model: Model,
    piece: Callable[[int], bytes],
    prompt: Sequence[int],
    options: GenerateOptions,
    choice: int,
) -> Expected:
    """Decode one stream plainly on an engine that holds nothing else, and empty the engine again.

    piece: returns the text of a token id.
    """
    stops = tuple(stop.encode() for stop in options.stops)
    made, text, reason = list[int](), b"", "length"
    for token_id in decoded(model, prompt, sampling_of(options, choice), options.max_tokens):
        if token_id in model.info.eog_token_ids:
            reason = "stop"
            break
        made.append(token_id)
        known, text = len(text), text + piece(token_id)
        # As if the text came byte by byte: the stop string that is complete first ends it, and of
        # several that are complete at the same byte the longest.
        ends = (end for end in range(known, len(text) + 1) if text[:end].endswith(stops))
        if (end := next(ends, None)) is not None:
            stop = max((stop for stop in stops if text[:end].endswith(stop)), key=len)
            text, reason = text[: end - len(stop)], "stop"
            break
    model.truncate(0, 0)
    return Expected(tuple(made), text, reason)


def toy_cases(random: Random, count: int, mean_tokens: float = 80.0) -> list[Case]:
    """Draw requests of all kinds: greedy and sampled, with rules, stop strings, several choices."""
    model = ToyModel(ToyConfig(num_cells=_REFERENCE_CELLS, max_sequences=1))
    tokenizer, cases = ToyTokenizer(_TOY.num_vocab), []
    for _ in range(count):
        num_prompt = 1 + min(600, int(random.expovariate(1 / 40)))
        prompt: Prompt
        if random.random() < 0.5:
            ids = prompt = tuple(random.randrange(1, _TOY.num_vocab) for _ in range(num_prompt))
        else:
            prompt = "".join(random.choices(string.ascii_letters + " ", k=num_prompt))
            ids = tuple(tokenizer.encode(prompt))
        cases.append(case(model, tokenizer.piece, prompt, ids, _options(random, mean_tokens)))
    return cases


def real_cases(random: Random, count: int, name: str) -> list[Case]:
    """Draw plain requests of a model, which is opened as a target node opens it.

    The engine runs in this process and is closed again.
    """
    texts = make_prompts(_NUM_LONG + count, seed=random.randrange(1 << 30))[_NUM_LONG:]
    opened, cases = open_engine(EngineSettings(model=name)), []
    with closing(opened.model):
        for text in texts:
            ids = tuple(opened.tokenizer.encode(text))
            is_sampled = random.random() < 0.5
            options = GenerateOptions(
                max_tokens=random.choice(range(24, 96)),
                temperature=0.8 if is_sampled else 0.0,
                top_k=40 if is_sampled else 0,
                top_p=0.95 if is_sampled else 1.0,
                seed=random.randrange(1 << 40),
            )
            cases.append(case(opened.model, opened.tokenizer.piece, ids, ids, options))
    return cases


def case(
    model: Model,
    piece: Callable[[int], bytes],
    prompt: Prompt,
    ids: Sequence[int],
    options: GenerateOptions,
) -> Case:
    """Returns a request with its undisturbed result. ids: the tokens of its prompt."""
    choices = range(options.num_choices)
    expected = tuple(undisturbed(model, piece, ids, options, choice) for choice in choices)
    return Case(prompt, options, expected)


def _options(random: Random, mean_tokens: float) -> GenerateOptions:
    is_sampled = random.random() < 0.6
    return GenerateOptions(
        max_tokens=1 + min(int(6 * mean_tokens), int(random.expovariate(1 / mean_tokens))),
        temperature=random.choice((0.5, 0.8, 1.0, 1.3)) if is_sampled else 0.0,
        top_k=random.choice((0, 0, 20)),
        top_p=random.choice((1.0, 1.0, 0.9)),
        min_p=random.choice((0.0, 0.0, 0.02)),
        seed=random.randrange(1 << 40),
        # None leaves gamma to the plan; the rest are values that a user may set.
        gamma=random.choice((None, None, None, 0, 3, 8)),
        priority=random.choice((5, 5, 5, 1, 10)),
        num_choices=random.choice((1, 1, 1, 1, 2, 3)),
        stops=random.choice(
            ((), (), (), (f" {random.randrange(90)}", "7 7"), ("5 1", "3"), ("4", " 4", "5", "6"))
        ),
        chat=random.random() < 0.5,
        rules=_rules(random),
    )


def _rules(random: Random) -> LogitRules:
    if random.random() < 0.6:
        return NO_RULES
    biases = tuple(
        LogitBias(random.randrange(1, _TOY.num_vocab), random.uniform(-4.0, 4.0))
        for _ in range(random.randrange(3))
    )
    return LogitRules(biases, random.choice((0.0, 0.5, 1.5)), random.choice((0.0, 0.3)))


def sampling_of(options: GenerateOptions, choice: int) -> Sampling:
    """Returns the sampling parameters that fix the tokens of a choice (law 1)."""
    return copied_from(options, Sampling, seed=options.seed or 0, choice=choice)
