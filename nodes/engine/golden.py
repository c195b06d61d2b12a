"""Digests of all that a text depends on beside the logits: parts of the numerics class.

A node whose numpy computes other values, or whose sampling has another version, samples other
tokens from fixed inputs and so gets another class.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from airdraft.nodes.engine import portable_math
from airdraft.nodes.engine.chat.tools import STYLES, tools_as_text
from airdraft.nodes.engine.grammar import lark_of
from airdraft.nodes.engine.grammar_limits import APART_LIMITS, LIMITS
from airdraft.nodes.engine.metadata import MARKED, OPENED
from airdraft.nodes.engine.noise import gumbel_noise, hash_bits
from airdraft.nodes.engine.protocol import Logits
from airdraft.nodes.engine.rules import Grammar, LogitBias, LogitRules
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.engine.sampling import SAMPLING_VERSION, Sampling

_NUM_VOCAB = 3000
_NUM_POSITIONS = 4
_NUM_NOISE = 2000
_PROMPT = tuple(range(7))
# Jinja2 renders conversations, and llguidance decides the tokens that a grammar allows.
_PACKAGES = ("Jinja2", "llguidance")
# They cover every branch of sampling.py.
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, seed=1),
    Sampling(temperature=1.5, seed=2, choice=1),
    Sampling(temperature=0.8, top_k=40, seed=3),
    Sampling(temperature=1.0, top_p=0.9, seed=4),
    Sampling(temperature=30.0, top_p=0.99, seed=5),
    Sampling(temperature=0.7, min_p=0.05, seed=6),
    Sampling(temperature=0.9, top_k=60, top_p=0.95, min_p=0.01, seed=7),
    Sampling(
        temperature=1.0,
        seed=8,
        rules=LogitRules((LogitBias(9, 2.3),), presence_penalty=0.7, frequency_penalty=0.3),
    ),
)


def golden_logits(position: int) -> Logits:
    """Returns (3000,) float32 from 0 to 12 in steps of 1/1024, with a peak and exact everywhere."""
    bits = hash_bits(position, np.arange(_NUM_VOCAB, dtype=np.uint64))
    parts = [bits >> np.uint64(shift) & np.uint64(4095) for shift in (0, 12, 24)]
    logits: Logits = np.sum(parts, axis=0).astype(np.float32) / np.float32(1024.0)
    return logits


def golden_tokens(sampling: Sampling) -> list[int]:
    """Sample tokens from `golden_logits` after a prompt of seven tokens."""
    sampler = Sampler(
        sampling, num_vocab=_NUM_VOCAB, token_ids=_PROMPT, num_prompt_tokens=len(_PROMPT)
    )
    token_ids: list[int] = []
    for position in range(len(_PROMPT), len(_PROMPT) + _NUM_POSITIONS):
        token_ids.append(sampler.sample(golden_logits(position), position))
        sampler.push(token_ids[-1])
    return token_ids


def sampling_digest() -> str:
    """Returns 16 hex digits, equal on all nodes whose sampling computes the same values."""
    steps = np.arange(0, 41 << portable_math.STEP_BITS, 10007, dtype=np.int64)
    tokens = [golden_tokens(sampling) for sampling in SAMPLINGS]
    digest = hashlib.sha256(repr((SAMPLING_VERSION, tokens, _is_libm_sound())).encode())
    digest.update(gumbel_noise(11, 2, 345, np.arange(_NUM_NOISE)).astype("<f8").tobytes())
    digest.update(portable_math.power_of_half(steps).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _is_libm_sound() -> bool:
    """Whether numpy's functions are as precise as sampling.py needs to skip tokens by them."""
    x = np.arange(1, 2 * _NUM_NOISE, 2) / (2.0 * _NUM_NOISE)
    exponent = portable_math.log(x)
    pairs = (np.log(x), exponent), (np.log(-exponent), portable_math.log(-exponent))
    return all(
        bool(np.allclose(rough, exact, rtol=1e-10, atol=0.0))
        for rough, exact in (*pairs, (np.exp(exponent), x))
    )


def tools_digest() -> str:
    """Returns 16 hex digits of what models read of tools, and of the grammars of answers."""
    properties = {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"enum": ["d", 1]}}
    function = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!", "tool_calls": [call]},
        {"role": "tool", "content": "1"},
    ]
    rendered = tools_as_text(talk, [{"function": function}])
    found = {"style": "", "choice": "auto", "parallel": True, "tools": [function]}
    texts = [
        json.dumps({**found, "style": style, "choice": choice, "thinking": thinking})
        for style in STYLES
        for choice in ("auto", "required")
        for thinking in (None, OPENED, MARKED)
    ]
    rules = [lark_of(Grammar("tools", text)) for text in texts]
    rules.append(lark_of(Grammar("json_schema", "{}")))
    return hashlib.sha256(repr((rendered, rules, LIMITS, APART_LIMITS)).encode()).hexdigest()[:16]


def software_digest() -> str:
    """Returns 16 hex digits of this process's sampling, tools and grammars, and package versions.

    A node without llguidance gets another class than one with it, although only requests with a
    grammar show a difference. Otherwise it would have to belong to the classes of all versions of
    llguidance, but a node has one class.
    """
    parts = sampling_digest(), tools_digest(), [_version(name) for name in _PACKAGES]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
