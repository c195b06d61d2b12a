"""Reads from a model file's metadata how the model is to be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from nodes.engine.chat.tools import style_of
from nodes.engine.traits import ModelTraits, SamplingDefaults

_KEYS: Final = {
    "temperature": ("general.sampling.temp", 0.0, 2.0),
    "top_k": ("general.sampling.top_k", 0, 2**31 - 1),
    "top_p": ("general.sampling.top_p", 0.0, 1.0),
    "min_p": ("general.sampling.min_p", 0.0, 1.0),
}
# The pooling types that give a vector of a text: mean, first token, last token. Types 0 (none) and
# 4 (rank) do not.
_POOLINGS: Final = ("1", "2", "3")

# The marks around the thinking of models that think before they answer.
OPEN: Final = "<think>"
CLOSE: Final = "</think>"

# The model writes both marks itself if it thinks.
MARKED: Final = "marked"
# The template ends with the opening mark, so the text of the model begins after it.
OPENED: Final = "opened"

# The part of a template that writes the beginning of an answer.
_BEGINS_ANSWER: Final = re.compile(r"add_generation_prompt.*", re.DOTALL)
_ENDS_OPEN: Final = re.compile(r"<think>(?:\\n)*\n*['\"]\s*[-+]?\}\}")


def traits_of(metadata: Callable[[str], str]) -> ModelTraits:
    """Return the traits that the metadata of a model file declares.

    metadata: Returns the text of a key; "" if the file lacks it.
    """
    template = metadata("tokenizer.chat_template")
    pooling = metadata(f"{metadata('general.architecture')}.pooling_type")
    return ModelTraits(
        style_of(template), _thinking_of(template), _sampling_of(metadata), pooling in _POOLINGS
    )


def _sampling_of(metadata: Callable[[str], str]) -> SamplingDefaults:
    """Read the sampling parameters; missing or invalid ones get their defaults."""
    found: dict[str, float] = {}
    for name, (key, low, high) in _KEYS.items():
        try:
            value = float(metadata(key))
        except ValueError:
            continue
        if low <= value <= high:
            found[name] = int(value) if name == "top_k" else value
    return SamplingDefaults(**found)  # type: ignore[arg-type]


def _thinking_of(template: str) -> str:
    """Return how a model with this chat template marks its thinking; "" if it does not think."""
    if CLOSE not in template and OPEN not in template:
        return ""
    found = _BEGINS_ANSWER.search(template)
    return OPENED if found is not None and _ENDS_OPEN.search(found[0]) else MARKED
