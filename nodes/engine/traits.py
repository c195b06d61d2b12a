"""The properties of a model that its file declares: how it is to be used."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Final

from airdraft.mesh.messages import Range
from airdraft.mesh.schema import MaxLen


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The sampling parameters for requests that name none.

    These values are the defaults of llama.cpp's server for a file without `general.sampling.*`.
    """

    temperature: Annotated[float, Range(0, 2)] = 0.8
    top_k: Annotated[int, Range(0, 2**31 - 1)] = 40
    top_p: Annotated[float, Range(0, 1)] = 0.95
    min_p: Annotated[float, Range(0, 1)] = 0.05


SAMPLING_NAMES: Final = tuple(item.name for item in fields(SamplingDefaults))
# The defaults of OpenAI's API: all tokens, with the model's own probabilities.
OPENAI_SAMPLING: Final = SamplingDefaults(1.0, 0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """How a model is to be used.

    tool_style: The form in which it writes function calls, one of chat.tools.STYLES; "" without a
    chat template. thinking: How it marks the thinking before an answer, as in metadata.py; "" if
    it does not think. thinking_off, thinking_on: The same where a request switches thinking off or
    on. embeds: Whether it computes vectors of texts, and no text.
    """

    tool_style: Annotated[str, MaxLen(16)] = ""
    thinking: Annotated[str, MaxLen(16)] = ""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    embeds: bool = False
    thinking_off: Annotated[str, MaxLen(16)] = ""
    thinking_on: Annotated[str, MaxLen(16)] = ""

    def thinking_if(self, thinks: bool | None) -> str:
        """Returns how it thinks for a request that switches thinking on or off, or leaves it."""
        if thinks is None:
            return self.thinking
        return self.thinking_on if thinks else self.thinking_off
