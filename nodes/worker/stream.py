"""The description of a stream that all nodes share, and the search for its stop strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from nodes.engine.grammar import Grammars
from nodes.engine.sampler import Sampler
from nodes.engine.sampling import Sampling
from nodes.messages import OpenStreamRequest

StreamId = NewType("StreamId", int)

# A target reads prompts in pieces of this size beside decoding, which they delay only a little.
PROMPT_PIECE_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """Everything that a node needs to serve a stream from some position on.

    token_ids: prompt and committed tokens. generation: raised each time the stream is placed anew,
    so that messages about an earlier placement can be dropped. num_logprobs, scores_prompt,
    num_leased, num_known, weight, num_guesses, looks_up: as in OpenStreamRequest.
    """

    stream_id: StreamId
    generation: int
    owner: str
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...]
    ignore_eog: bool
    num_prompt_tokens: int
    token_ids: tuple[int, ...]
    num_logprobs: int = -1
    scores_prompt: bool = False
    num_leased: int = 0
    num_known: int = 0
    weight: float = 1.0
    num_guesses: int = -1
    looks_up: bool = False

    @property
    def num_committed(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def ends_at_eog(self) -> bool:
        """Whether an end-of-text token ends it; always so with a grammar, which sets the end."""
        return not self.ignore_eog or bool(self.sampling.rules.grammar.kind)

    def sampler(self, num_vocab: int, grammars: Grammars | None) -> Sampler:
        """Returns a sampler for the stream's next token. Raises GrammarError."""
        return Sampler(
            self.sampling,
            num_vocab=num_vocab,
            token_ids=self.token_ids,
            num_prompt_tokens=self.num_prompt_tokens,
            grammars=grammars,
        )


def spec_of(request: OpenStreamRequest) -> StreamSpec:
    return StreamSpec(
        stream_id=StreamId(request.stream_id),
        generation=request.generation,
        owner=request.owner,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        stops=request.stops,
        ignore_eog=request.ignore_eog,
        num_prompt_tokens=request.num_prompt_tokens,
        token_ids=request.token_ids,
        num_logprobs=request.num_logprobs,
        scores_prompt=request.scores_prompt,
        num_leased=request.num_leased,
        num_known=request.num_known,
        weight=request.weight,
        num_guesses=request.num_guesses,
        looks_up=request.looks_up,
    )


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
