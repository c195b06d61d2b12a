"""What a model's vocabulary tells, for systems that do not say or cannot be told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nodes.engine.llama_abi import load_model
from nodes.engine.vocab import LlamaTokenizer


def token_counter(path: Path) -> Callable[[str], int]:
    """By a model's own vocabulary, which alone is loaded."""
    tokenizer = _tokenizer(path)
    # What a model puts before every text is none of an answer's tokens.
    num_added = len(tokenizer.encode("a")) - 1
    return lambda text: len(tokenizer.encode(text)) - num_added if text else 0


def ends_of(path: Path) -> list[int]:
    """Tokens with which a model ends its texts."""
    return sorted(_tokenizer(path).eog_token_ids())


def _tokenizer(path: Path) -> LlamaTokenizer:
    return LlamaTokenizer(load_model(path, gpu_layers=0, repack=False, vocab_only=True))
