"""Reads from a model file's metadata how the model is to be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from airdraft.nodes.engine.chat.tools import style_of
from airdraft.nodes.engine.traits import ModelTraits, SamplingDefaults

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
# The model writes messages in channels, of which `analysis` has its thoughts: gpt-oss's Harmony.
# libllama shows these marks; some versions of it do not show that of the end of a message.
HARMONY: Final = "harmony"
START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"

# Keys of the files of a split model: name and SHA-256 of the whole model, the stage's first block
# and the one behind its last, and how many there are in all.
NAME_KEY, MODEL_KEY, FIRST_KEY, END_KEY, COUNT_KEY = (
    f"airdraft.stage.{name}" for name in ("name", "model", "first", "end", "count")
)


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a stage of a split model has: the blocks `first` to `end` - 1 of `count`."""

    first: int
    end: int
    count: int

    @property
    def are_last(self) -> bool:
        return self.end == self.count


def traits_of(metadata: Callable[[str], str]) -> ModelTraits:
    """Returns the traits that the metadata of a model file declares.

    Whether a prompt ends in thoughts is not known before one is rendered (thinking_after).
    metadata: Returns the text of a key; "" if the file lacks it.
    """
    template = metadata("tokenizer.chat_template")
    pooling = metadata(f"{metadata('general.architecture')}.pooling_type")
    thinking = MARKED if CLOSE in template or OPEN in template else ""
    if CHANNEL in template and MESSAGE in template:
        thinking = HARMONY
    return ModelTraits(
        style_of(template),
        thinking,
        _sampling_of(metadata),
        pooling in _POOLINGS,
        thinking_off=thinking,
        thinking_on=thinking,
    )


def original_context(metadata: Callable[[str], str]) -> int:
    """Returns the context above which a model has other positions, also for its first tokens.

    libllama chooses them by the size of the cache (rope_long, LongRoPE). 0 means that there are no
    others.
    """
    scaling = f"{metadata('general.architecture')}.rope.scaling"
    length = metadata(f"{scaling}.original_context_length")
    has_others = metadata(f"{scaling}.type") not in ("yarn", "linear")
    return int(length) if has_others and length.isdecimal() else 0


def thinking_after(prompt: str) -> str:
    """Returns how a model with these marks thinks. prompt: The end of one in its template."""
    return OPENED if "<" not in prompt.rpartition(OPEN)[2] and OPEN in prompt else MARKED


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
