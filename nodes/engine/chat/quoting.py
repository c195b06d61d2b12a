"""Keeps texts of control tokens inside messages apart from those that the template writes.

The author of a message must not be able to end it and begin another one. So each text of a control
token in a message is replaced by a mark before rendering. Afterwards the text replaces the mark
and is tokenized as plain text. Messages without such texts are rendered as they are.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Final

from airdraft.nodes.engine.protocol import InvalidInputError

_NONCE_BYTES: Final = 12
# Templates write roles next to control tokens, so their characters are restricted.
_ROLE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PREFIX_CHARS: Final = 2


class ControlTexts:
    """The texts of a vocabulary's control tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(filter(None, texts))
        self._lengths = sorted({len(text) for text in self._texts}, reverse=True)
        starts = sorted({re.escape(text[:_PREFIX_CHARS]) for text in self._texts})
        # Finds where a control token may begin: a look-ahead, because they may overlap, and only
        # of the first characters, because thousands of whole texts would be slow.
        self._start = re.compile(f"(?={'|'.join(starts)})") if starts else None
        self._prefixes = frozenset(t[:n] for t in self._texts for n in range(1, len(t)))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns the spans of control tokens, and of a beginning of one at the end of the text.

        Where several begin, the longest one counts. The end is that without trailing white space,
        because templates remove this, and text that they append must not complete a control token.
        """
        spans, end = [], 0
        for match in self._start.finditer(text) if self._start is not None else ():
            start = match.start()
            size = self._size_at(text, start) if start >= end else 0
            if size:
                end = start + size
                spans.append((start, end))
        last = len(text.rstrip())
        for size in range(min(self._lengths[0] - 1 if self._lengths else 0, last - end), 0, -1):
            if text[last - size : last] in self._prefixes:
                spans.append((last - size, last))
                break
        return spans

    def _size_at(self, text: str, start: int) -> int:
        # At the end of the text a slice may be shorter than its size.
        parts = (text[start : start + size] for size in self._lengths)
        return next((len(part) for part in parts if part in self._texts), 0)


class Quotes:
    """The marks of one conversation. They are random, so that no message can contain one."""

    def __init__(self, controls: ControlTexts) -> None:
        self._controls = controls
        self._nonce = secrets.token_hex(_NONCE_BYTES)
        self._texts: list[str] = []
        # A template may change the case of letters.
        self._mark = re.compile(f"q{self._nonce}x([0-9]+)z", re.IGNORECASE)

    def quote(self, content: str) -> str:
        """Returns a message's content with marks in place of control tokens."""
        parts, end = [], 0
        for start, stop in self._controls.spans(content):
            parts += [content[end:start], f"q{self._nonce}x{len(self._texts)}z"]
            self._texts.append(content[start:stop])
            end = stop
        return "".join([*parts, content[end:]])

    def split(self, rendered: str) -> list[tuple[str, bool]]:
        """Divide a rendered text at its marks and restore their texts; no part is empty.

        Each part comes with whether it is plain: to be tokenized without control tokens.
        """
        parts = []
        for index, part in enumerate(self._mark.split(rendered)):
            is_plain = index % 2 == 1
            text = self._texts[int(part)] if is_plain else part
            if text:
                parts.append((text, is_plain))
        return parts


def check_role(role: str) -> None:
    """Raise InvalidInputError for a role with other characters than roles of templates have."""
    if not _ROLE.fullmatch(role):
        raise InvalidInputError(
            f"role {role[:64]!r}: 1 to 64 letters, digits and characters of . _ - are accepted"
        )
