"""Event ids of resumable streams, and the rest of an answer after such an id. Pure.

A text that is generated again arrives in other pieces, because other passes accept guesses. So an
id holds how much of each choice was sent, in characters and scored tokens, and a checksum.
"""

import re
import zlib
from dataclasses import dataclass, replace
from typing import Final, Self

from nodes.gateway.answers import Delta
from nodes.gateway.bodies import wrong
from nodes.gateway.errors import ApiError
from nodes.messages.fingerprint import is_fingerprint

HEADER: Final = "Last-Event-ID"
# Each event id holds the positions of all choices, so their number is limited.
MAX_CHOICES: Final = 64
_MAX_ID_CHARS: Final = 4096
_NOTHING: Final = "-"
_END: Final = ".end"
_USAGE: Final = "/usage"
_POSITION: Final = re.compile(r"(\d{1,10})\.(\d{1,10})\.([0-9a-f]{8})(\.end)?")


@dataclass(slots=True)
class _Position:
    """The part of one choice that was sent. crc: the CRC-32 of that text."""

    has_begun: bool = False
    num_chars: int = 0
    num_tokens: int = 0
    crc: int = 0
    has_ended: bool = False

    def add(self, text: str, num_tokens: int) -> None:
        self.has_begun = True
        self.num_chars += len(text)
        self.num_tokens += num_tokens
        self.crc = zlib.crc32(text.encode(), self.crc)

    def __str__(self) -> str:
        if not self.has_begun:
            return _NOTHING
        end = _END if self.has_ended else ""
        return f"{self.num_chars}.{self.num_tokens}.{self.crc:08x}{end}"


class Told:
    """The part of a stream that its reader has, as the id of the last event gives it.

    tag: identifies the request. An id is TAG@FINGERPRINT:POSITION,POSITION,... with one position
    for each choice. fingerprint: of the model and class that answer, "" until they are known; no
    others make the same text.
    """

    def __init__(self, tag: str, num_choices: int) -> None:
        self._tag = tag
        self.fingerprint = ""
        self._positions = [_Position() for _ in range(num_choices)]
        # What the reader had when it resumed the stream, and how much of that has come again.
        self._had = [_Position() for _ in range(num_choices)]
        self._again = [_Position() for _ in range(num_choices)]
        self.has_usage = False

    @classmethod
    def of_header(cls, found: bytes, tag: str, num_choices: int) -> Self:
        """Parse a Last-Event-ID. Raises ApiError if it is not an event id of this request."""
        told = cls(tag, num_choices)
        text = found[:_MAX_ID_CHARS].decode("latin-1")
        told.has_usage = text.endswith(_USAGE)
        whose, _, fields = text.removesuffix(_USAGE).rpartition(":")
        of, _, told.fingerprint = whose.partition("@")
        positions = [_parsed(field) for field in fields.split(",")]
        known = [position for position in positions if position is not None]
        is_known = not told.fingerprint or is_fingerprint(told.fingerprint)
        if of != tag or not is_known or len(known) != len(positions) or len(known) != num_choices:
            raise refused("this is not the id of an event of this request")
        told._positions, told._had = known, [replace(position) for position in known]
        return told

    def line(self, index: int, text: str = "", num_tokens: int = 0, *, ends: bool = False) -> bytes:
        """The `id:` line of an event that adds this text and these tokens to a choice."""
        position = self._positions[index]
        position.add(text, num_tokens)
        position.has_ended = ends
        return self._line()

    def usage_line(self) -> bytes:
        """The `id:` line of the event with the usage."""
        return self._line(_USAGE)

    def _line(self, more: str = "") -> bytes:
        whose = f"{self._tag}@{self.fingerprint}" if self.fingerprint else self._tag
        return f"id: {whose}:{','.join(map(str, self._positions))}{more}\n".encode()

    def rest(self, delta: Delta) -> Delta:
        """The part of a delta that the reader does not have. The answer comes from its beginning.

        Raises ApiError if the text differs from the one that was begun.
        """
        told, seen = self._had[delta.index], self._again[delta.index]
        if not told.has_begun:
            return delta
        num_chars = min(len(delta.text), told.num_chars - seen.num_chars)
        num_tokens = min(len(delta.tokens), told.num_tokens - seen.num_tokens)
        seen.add(delta.text[:num_chars], num_tokens)
        rest = replace(
            delta,
            text=delta.text[num_chars:],
            tokens=delta.tokens[num_tokens:],
            told_tokens=delta.tokens[:num_tokens],
            begins=False,
        )
        is_all_seen = seen.num_chars == told.num_chars and seen.num_tokens == told.num_tokens
        if seen.num_chars == told.num_chars and seen.crc != told.crc:
            raise _differs()
        if delta.finish_reason is not None and not is_all_seen:
            raise _differs()
        if told.has_ended:
            if rest.text or rest.tokens:
                raise _differs()
            rest = replace(rest, finish_reason=None)
        return rest


def _parsed(field: str) -> _Position | None:
    """Parse a position; None if it is invalid."""
    if field == _NOTHING:
        return _Position()
    found = _POSITION.fullmatch(field)
    if found is None:
        return None
    num_chars, num_tokens, crc, end = found.groups()
    return _Position(True, int(num_chars), int(num_tokens), int(crc, 16), end is not None)


def refused(reason: str) -> ApiError:
    return wrong(HEADER, reason)


def _differs() -> ApiError:
    # For example, the numerics class that began the text is no longer in the mesh.
    return ApiError(
        412,
        f"{HEADER}: the text sent before cannot be generated again: send a new request with a new "
        f"key",
        kind="idempotency_error",
        param=HEADER,
        code="text_differs",
    )
