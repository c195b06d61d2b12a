"""Token counts and end-of-text tokens of a vocabulary, for systems whose API lacks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nodes.engine.llama_abi import load_model
from nodes.engine.vocab import LlamaTokenizer


def token_counter(path: Path) -> Callable[[str], int]:
    """Return a function that counts a text's tokens; only the model's vocabulary is loaded."""
    tokenizer = _tokenizer(path)
    # Tokens that a model puts before every text do not belong to an answer.
    num_added = len(tokenizer.encode("a")) - 1
    return lambda text: len(tokenizer.encode(text)) - num_added if text else 0


def ends_of(path: Path) -> list[int]:
    """Return a model's end-of-text tokens."""
    return sorted(_tokenizer(path).eog_token_ids())


def _tokenizer(path: Path) -> LlamaTokenizer:
    return LlamaTokenizer(load_model(path, gpu_layers=0, repack=False, vocab_only=True))
