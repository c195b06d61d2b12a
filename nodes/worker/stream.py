"""What target and draft nodes share of a stream: its description, cells, sampler and stops, and
what it has in common with others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias, TypeVar

from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.masks import MaskService
from airdraft.nodes.engine.protocol import EngineInfo, StreamError, common_prefix
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.messages import MAX_GAMMA, OpenStreamRequest, StreamFailedNotice
from airdraft.nodes.messages import StreamId as StreamId

# Everything that a node needs to serve a stream from some position on.
StreamSpec: TypeAlias = OpenStreamRequest

# A target reads prompts in pieces of this size beside decoding, which they delay only a little.
PROMPT_PIECE_TOKENS = 32
# A stream is admitted if it has room for this many further tokens. With fewer it would soon be
# parked again; with more, cells would be reserved for tokens that may never come.
_GROWTH_TOKENS = 64
# Stands between the tenant and the user in the name of an owner; names of keys do not contain it.
OWNER_MARK = "#"


def tenant_of(owner: str) -> str:
    """Returns the key to which an owner belongs, whose turns and limits all its users share."""
    return owner.partition(OWNER_MARK)[0]


def key_of(owner: str) -> str:
    """Returns the name of the machine's key to which an owner belongs."""
    return tenant_of(owner).partition("/")[0]


def cells_soon(num_tokens: int, tokens_left: int) -> int:
    """Returns the cells that admission counts for a stream: its tokens, some growth, guesses."""
    return num_tokens + min(tokens_left, _GROWTH_TOKENS) + MAX_GAMMA


def cells_needed(spec: StreamSpec) -> int:
    """Returns the most cells that a stream may ever hold: prompt, output, and guesses of a pass."""
    return spec.num_prompt_tokens + spec.max_tokens + MAX_GAMMA


def refusal(spec: StreamSpec, info: EngineInfo, num_streams: int) -> str:
    """Returns the reason why a target cannot serve a stream beside num_streams others, or ""."""
    if not spec.token_ids or not 0 < spec.num_prompt_tokens <= len(spec.token_ids):
        return "the prompt is empty"
    if max(spec.token_ids) >= info.num_vocab:
        return "the prompt has token ids outside the model's vocabulary"
    if num_streams >= info.max_sequences:
        return f"all {info.max_sequences} sequences of {info.model} are taken"
    needed = cells_needed(spec)
    if needed > info.num_cells:
        return f"the request needs {needed} cells, {info.model} has {info.num_cells}"
    return ""


def sampler_of(
    spec: StreamSpec, num_vocab: int, grammars: Grammars | None, masks: MaskService
) -> Sampler:
    """Returns a sampler for the stream's next token. Raises GrammarError."""
    return Sampler(
        spec.sampling,
        num_vocab=num_vocab,
        token_ids=spec.token_ids,
        num_prompt_tokens=spec.num_prompt_tokens,
        grammars=grammars,
        masks=masks,
        owner=spec.owner,
    )


def failed_by(stream_id: StreamId, generation: int, error: StreamError) -> StreamFailedNotice:
    """Returns the notice of a stream that an error has ended, such as one of its grammar."""
    return StreamFailedNotice(stream_id, generation, str(error)[:1024], error.code)


class Text(Protocol):
    """A stream with its tokens."""

    spec: StreamSpec
    token_ids: list[int]


T = TypeVar("T", bound=Text)


def most_in_common(
    stream: T,
    num_wanted: int,
    by_age: Iterable[T],
    cached: Callable[[T], int],
    shortest: Callable[[T], int],
) -> tuple[tuple[int, T], tuple[int, T]]:
    """Returns how many of the first num_wanted tokens another stream of the same owner has in the
    cache, and which one; and the same of an earlier stream that is about to read them.

    by_age: all streams, oldest first. cached: returns the tokens of a stream in the cache.
    shortest: returns the fewest of them that can be copied. What is shorter than a piece of a
    prompt is read as fast as it is copied.
    """
    wanted = stream.token_ids[:num_wanted]
    now = soon = (0, stream)
    # Only earlier streams count, so that no two streams wait for each other.
    is_earlier = True
    for other in by_age:
        if other is stream:
            is_earlier = False
        # Most texts differ early, which is seen without a search.
        begins_alike = other.token_ids[:PROMPT_PIECE_TOKENS] == wanted[:PROMPT_PIECE_TOKENS]
        if other is stream or other.spec.owner != stream.spec.owner or not begins_alike:
            continue
        shared = common_prefix(wanted, other.token_ids[:-1])
        if shared < PROMPT_PIECE_TOKENS:
            continue
        num_cached = cached(other)
        if min(shared, num_cached) >= max(now[0] + 1, shortest(other)):
            now = min(shared, num_cached), other
        if is_earlier and max(num_cached + 1, shortest(other)) <= shared and shared > soon[0]:
            soon = shared, other
    return now, soon


class StopMatcher:
    """Finds stop strings in a text that arrives in pieces, and holds back possible beginnings."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop.encode() for stop in stops if stop)
        self._held = b""

    def push(self, piece: bytes) -> tuple[bytes, bool]:
        """Returns the text that may be shown now, and whether a stop string ended it."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        # The stop string that ends first counts, so that the result is independent of the pieces.
        found = [
            (index + len(stop), index) for stop in self._stops if (index := text.find(stop)) >= 0
        ]
        if found:
            self._held = b""
            return text[: min(found)[1]], True
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> bytes:
        """Returns the text that was held back, after the stream has ended for another reason."""
        held, self._held = self._held, b""
        return held


def _overlap(text: bytes, stop: bytes) -> int:
    """Returns the length of the longest suffix of text that is a proper prefix of stop."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
