"""The digest of a prompt. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

_DIGEST_BYTES = 16


def prompt_hash(prompt: Sequence[int]) -> str:
    """Return a digest of a prompt's token ids, which tells whether a resumed text still has them.

    They may change with time, for example when a chat template includes the date.
    """
    return hashlib.blake2b(array("I", prompt).tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
