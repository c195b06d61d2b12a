"""Recognises models that think before they answer, in a text between <think> and </think>.

Some chat templates write the opening mark themselves, so the model's text begins after it.
"""

from __future__ import annotations

import re
from typing import Final

OPEN: Final = "<think>"
CLOSE: Final = "</think>"

# The model writes both marks itself if it thinks.
MARKED: Final = "marked"
# The template ends with the opening mark.
OPENED: Final = "opened"

# The part of a template that writes the beginning of an answer.
_BEGINS_ANSWER: Final = re.compile(r"add_generation_prompt.*", re.DOTALL)
_ENDS_OPEN: Final = re.compile(r"<think>(?:\\n)*\n*['\"]\s*[-+]?\}\}")


def kind_of(template: str) -> str:
    """Return how a model with this chat template marks its thinking; "" if it does not think."""
    if CLOSE not in template and OPEN not in template:
        return ""
    found = _BEGINS_ANSWER.search(template)
    return OPENED if found is not None and _ENDS_OPEN.search(found[0]) else MARKED
