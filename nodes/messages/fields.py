"""Limits, field types and structs that several messages share, and the profile in Hello."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from typing import Annotated, Final, NewType, Protocol, TypeVar

from airdraft.mesh.messages import MaxLen, Range, struct
from airdraft.nodes.engine.rules import (
    MAX_BIASES,
    MAX_GRAMMAR_CHARS,
    Grammar,
    LogitBias,
    LogitRules,
)
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.traits import ModelTraits, SamplingDefaults
from airdraft.policies.latency import CostTable

MAX_GAMMA: Final = 16
# A stream waits at most this long for its guesses.
MAX_HOLD_US: Final = 10_000_000
MAX_STREAMS_PER_MESSAGE: Final = 256
# Guesses that a draft node may be ahead of the commits it has received.
MAX_WINDOW: Final = 32
MAX_PROMPT_TOKENS: Final = 131_072
MAX_STOPS: Final = 8
MAX_CHOICES: Final = 64
# The longest deadline that a request may have.
MAX_DEADLINE_S: Final = 1e9
MAX_MESSAGES: Final = 1024
# The limit of OpenAI's API.
MAX_TOP_LOGPROBS: Final = 20
# A coordinator with more keys does not tell targets of them.
MOST_OWNERS: Final = 4096
MAX_RULES_BYTES: Final = 4 * MAX_GRAMMAR_CHARS + 20 * MAX_BIASES
# A SubmitRequest without its token ids. A message that passes on its text must have room for it.
MAX_SUBMIT_BYTES: Final = (1 << 18) + MAX_RULES_BYTES + 65_536
# A message with a Reason, whose characters take up to 4 bytes each.
MAX_REASON_BYTES: Final = 8192
# A weight: twice the priority counts twice as much.
MAX_PRIORITY: Final = 10
DEFAULT_PRIORITY: Final = 5

Id = Annotated[int, Range(0, 2**63 - 1)]
StreamId = NewType("StreamId", int)
Count = Annotated[int, Range(0, 2**31 - 1)]
Position = Annotated[int, Range(0, 2**31 - 1)]
Gamma = Annotated[int, Range(0, MAX_GAMMA)]
Name = Annotated[str, MaxLen(256)]
# A day as YYYY-MM-DD, or "" if it is unknown.
Date = Annotated[str, MaxLen(10)]
Reason = Annotated[str, MaxLen(1024)]
Code = Annotated[str, MaxLen(32)]
MAX_STOP_CHARS: Final = 256
Stops = Annotated[tuple[Annotated[str, MaxLen(MAX_STOP_CHARS)], ...], MaxLen(MAX_STOPS)]
PromptText = Annotated[str, MaxLen(1 << 18)]
# The bytes of one token. Nearly all take fewer than 100.
MAX_TOKEN_BYTES: Final = 4096
Piece = Annotated[bytes, MaxLen(MAX_TOKEN_BYTES)]
# What a pass adds to a stream: guesses, one token more, and the held back beginning of a stop.
Text = Annotated[bytes, MaxLen((MAX_GAMMA + 1) * MAX_TOKEN_BYTES + 4 * MAX_STOP_CHARS)]
# Results of requests that only read the prompt: its text, or its embedding as little-endian 32-bit
# floats.
MAX_TEXT_BYTES: Final = 1 << 19
MAX_EMBEDDING_BYTES: Final = 1 << 17
MAX_READ_BYTES: Final = MAX_TEXT_BYTES + MAX_EMBEDDING_BYTES
ReadText = Annotated[bytes, MaxLen(MAX_TEXT_BYTES)]
Embedding = Annotated[bytes, MaxLen(MAX_EMBEDDING_BYTES)]
NumLogprobs = Annotated[int, Range(-1, MAX_TOP_LOGPROBS)]


class Counted(Protocol):
    """An entry of a message, to which so many of its token ids belong."""

    @property
    def num_tokens(self) -> int: ...


E = TypeVar("E", bound=Counted)


def with_tokens(
    entries: Iterable[E], token_ids: tuple[int, ...]
) -> Iterator[tuple[E, tuple[int, ...]]]:
    """Yield each entry of a message with its own token ids, fewer if the sender sent too few."""
    offset = 0
    for entry in entries:
        yield entry, token_ids[offset : offset + entry.num_tokens]
        offset += entry.num_tokens


struct(LogitBias)
struct(Grammar)
struct(LogitRules)
struct(SamplingDefaults)
struct(ModelTraits)
struct(Sampling)
struct(CostTable)


@struct
class ChatMessage:
    """One message of a conversation.

    role: The author, as the model's chat template names it: `system`, `user` or `assistant`.
    content: The text.
    """

    role: Annotated[str, MaxLen(64)]
    content: PromptText


@struct
class Score:
    """A token, the natural logarithm of its probability by the raw logits, and its bytes."""

    token_id: Count
    logprob: float
    piece: Piece


@struct
class TokenScores:
    """A token of a text and, best first, the most probable tokens at its position."""

    chosen: Score
    top: Annotated[tuple[Score, ...], MaxLen(MAX_TOP_LOGPROBS)]


@struct
class LinkFields:
    """What a node declares about its link to the coordinator.

    air: the medium it shares with other nodes that give the same name, "" for none. rate_bps: rate
    of the link alone, 0 if it must be measured. frame_s: the least airtime of a message in seconds.
    rtt_s: round trip to the coordinator in seconds, 0 if it must be measured.
    """

    air: Name
    rate_bps: Annotated[float, Range(0, 1e12)]
    frame_s: Annotated[float, Range(0, 10)]
    rtt_s: Annotated[float, Range(0, 10)] = 0.0


@struct
class EngineProfile:
    """A node's engine as declared in Hello; fields as in engine.protocol.EngineInfo."""

    engine: Name
    model: Name
    model_hash: Name
    vocab_hash: Name
    numerics_class: Name
    num_vocab: Count
    num_cells: Count
    max_streams: Annotated[int, Range(1, MAX_STREAMS_PER_MESSAGE)]
    context_length: Count
    exact: bool
    can_take_back: bool
    emulated: bool
    decode: CostTable
    prefill: CostTable
    link: LinkFields = LinkFields("", 0.0, 0.0)
    traits: ModelTraits = field(default_factory=ModelTraits)

    @property
    def max_length(self) -> int:
        """The most tokens that one text can have."""
        return min(self.num_cells, self.context_length)
