"""What a model's file says of how the model is to be used."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Final

from mesh.messages import Range
from mesh.schema import MaxLen


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How tokens are drawn where nobody says it. These are what llama.cpp's server takes where a
    model's file has no `general.sampling.*`."""

    temperature: Annotated[float, Range(0, 2)] = 0.8
    top_k: Annotated[int, Range(0, 2**31 - 1)] = 40
    top_p: Annotated[float, Range(0, 1)] = 0.95
    min_p: Annotated[float, Range(0, 1)] = 0.05


SAMPLING_NAMES: Final = tuple(item.name for item in fields(SamplingDefaults))
# What OpenAI's API takes where nothing is said: all tokens, as likely as the model has them.
OPENAI_SAMPLING: Final = SamplingDefaults(1.0, 0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """tool_style: how the model writes calls of functions, one of chat.tools.STYLES; "" where it
    has no chat template. thinking: how it thinks before it answers, as chat.thinking has it; "" for
    not at all. embeds: it makes vectors of texts, and no text.
    """

    tool_style: Annotated[str, MaxLen(16)] = ""
    thinking: Annotated[str, MaxLen(16)] = ""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    embeds: bool = False
