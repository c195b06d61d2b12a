"""Digests of what all turns of a conversation share, and of a prompt's token ids. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from nodes.messages import SubmitRequest

_DIGEST_BYTES = 16
_NUM_CHARS, _NUM_IDS = 256, 64
_USER = "user"


def conversation_of(submit: SubmitRequest, prompt: Sequence[int]) -> bytes:
    """Returns a digest of the beginning of a request, the same in every coordinator.

    The beginning of a conversation is its tools and its messages up to and including the user's
    first one; of a text its first 256 characters; of token ids (prompt) the first 64.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    parts = [submit.tools]
    for message in submit.messages:
        parts += [message.role, message.content]
        if message.role == _USER:
            break
    for part in map(str.encode, parts if submit.messages else ()):
        # The length of each part makes sure that no two lists of parts give the same bytes.
        digest.update(len(part).to_bytes(4, "little") + part)
    digest.update(submit.prompt[:_NUM_CHARS].encode())
    for token_id in prompt[:_NUM_IDS]:
        digest.update(token_id.to_bytes(4, "little"))
    return digest.digest()


def prompt_hash(prompt: Sequence[int]) -> str:
    """Return a digest of a prompt's token ids, which tells whether a resumed text still has them.

    They may change with time, for example when a chat template includes the date.
    """
    return hashlib.blake2b(array("I", prompt).tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
