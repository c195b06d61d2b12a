"""The messages about requests, between clients and coordinator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from airdraft.mesh.json_form import copied_from
from airdraft.mesh.messages import MaxLen, Range, TokenIds, message, struct
from airdraft.nodes.engine.rules import NO_RULES, LogitRules
from airdraft.nodes.messages.fields import (
    MAX_CHOICES,
    MAX_DEADLINE_S,
    MAX_GAMMA,
    MAX_MESSAGES,
    MAX_PRIORITY,
    MAX_PROMPT_TOKENS,
    MAX_READ_BYTES,
    MAX_REASON_BYTES,
    MAX_STREAMS_PER_MESSAGE,
    MAX_SUBMIT_BYTES,
    ChatMessage,
    Code,
    Count,
    Date,
    Embedding,
    Gamma,
    Id,
    LinkFields,
    Name,
    NumLogprobs,
    Position,
    PromptText,
    ReadText,
    Reason,
    Stops,
    Text,
    TokenScores,
    with_tokens,
)


@message(32, max_bytes=MAX_SUBMIT_BYTES, max_tokens=MAX_PROMPT_TOKENS)
class SubmitRequest:
    """A client's request: a conversation, text or token ids, and the number of choices.

    model: "" for any. user: the user of this client that sends it. num_logprobs and scores_prompt:
    as in OpenStreamRequest; max_tokens may be 0 only if the prompt is scored. gamma: -1 lets the
    policy choose. seed: -1 for a random one. priority: the weight of its speed against that of
    other requests.

    resume_from: () for a new request. For one that began with another coordinator it has, for each
    choice, the number of committed tokens that the client has, or -1 if the choice is over;
    prompt_token_ids then has these tokens after the prompt, in order. model_hash, numerics_class,
    is_exact, prompt_hash: as in its StartedNotice, so that it continues as it began; "" and False
    for any. A new request may also name the first two, in full or as in fingerprints. deadline_s:
    seconds from now on; 0 for the coordinator's limit. date: today's date for a chat template.
    tools: functions that the answer may call, calls in messages, and variables of the template, as
    engine.chat.tools.parse_tools reads them.

    wants: "" for text that continues the prompt; one of WANTS if the prompt is only read, which a
    ReadNotice answers. fits: max_tokens may be lowered to what a target can hold beside the prompt.
    """

    request_id: Id
    prompt: PromptText
    num_choices: Annotated[int, Range(1, MAX_CHOICES)]
    temperature: float
    top_k: Count
    top_p: float
    min_p: float
    seed: Annotated[int, Range(-1, 2**63 - 1)]
    max_tokens: Annotated[int, Range(0, 1 << 20)]
    stops: Stops
    ignore_eog: bool
    gamma: Annotated[int, Range(-1, MAX_GAMMA)]
    priority: Annotated[int, Range(1, MAX_PRIORITY)]
    prompt_token_ids: TokenIds
    messages: Annotated[tuple[ChatMessage, ...], MaxLen(MAX_MESSAGES)] = ()
    model: Name = ""
    user: Name = ""
    rules: LogitRules = NO_RULES
    num_logprobs: NumLogprobs = -1
    scores_prompt: bool = False
    resume_from: Annotated[
        tuple[Annotated[int, Range(-1, 2**31 - 1)], ...], MaxLen(MAX_CHOICES)
    ] = ()
    numerics_class: Name = ""
    deadline_s: Annotated[float, Range(0, MAX_DEADLINE_S)] = 0.0
    model_hash: Name = ""
    is_exact: bool = False
    prompt_hash: Name = ""
    date: Date = ""
    tools: PromptText = ""
    wants: Code = ""
    fits: bool = False


@message(33)
class CancelRequest:
    request_id: Id


@message(34, max_bytes=8192)
class StartedNotice:
    """The first stream of a request has a target.

    numerics_class, model_hash: of all targets that serve it. prompt_hash: of the prompt's token
    ids. limit_s: seconds from now on after which an unfinished request ends.
    """

    request_id: Id
    seed: Id
    num_prompt_tokens: Count
    exact: bool
    target: Name
    draft: Name
    emulated: bool
    numerics_class: Name = ""
    model_hash: Name = ""
    prompt_hash: Name = ""
    limit_s: Annotated[float, Range(0, MAX_DEADLINE_S)] = 0.0


@message(35, max_bytes=1 << 20, max_tokens=(MAX_GAMMA + 1) * MAX_STREAMS_PER_MESSAGE)
class TokensNotice:
    """Output tokens of one choice from `position` (0: the first output token) on.

    num_draft_tokens: guesses verified for these tokens. num_accepted_tokens: how many of the first
    tokens are accepted guesses. is_last: the text ends with these tokens; a FinishedNotice follows.
    """

    request_id: Id
    choice: Count
    position: Position
    text: Text
    token_ids: TokenIds
    num_draft_tokens: Gamma = 0
    num_accepted_tokens: Gamma = 0
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_GAMMA + 1)] = ()
    is_last: bool = False


@struct
class OutputEntry:
    """A TokensNotice within an OutputNotice. num_tokens: how many of the token ids are its own."""

    request_id: Id
    choice: Count
    position: Position
    text: Text
    num_tokens: Count
    num_draft_tokens: Gamma
    num_accepted_tokens: Gamma
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_GAMMA + 1)]
    is_last: bool


@message(53, max_bytes=1 << 20, max_tokens=(MAX_GAMMA + 1) * MAX_STREAMS_PER_MESSAGE)
class OutputNotice:
    """What one pass of a target adds to several choices of a client.

    token_ids: of all entries in order.
    """

    entries: Annotated[tuple[OutputEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    token_ids: TokenIds


def output_of(notices: Sequence[TokensNotice]) -> OutputNotice:
    """Returns one message with these notices."""
    entries = tuple(copied_from(n, OutputEntry, num_tokens=len(n.token_ids)) for n in notices)
    return OutputNotice(entries, tuple(token_id for n in notices for token_id in n.token_ids))


def notices_of(output: OutputNotice) -> Iterator[TokensNotice]:
    """Yield the notices of one message, with fewer tokens if the sender sent too few ids."""
    for entry, token_ids in with_tokens(output.entries, output.token_ids):
        yield copied_from(entry, TokensNotice, token_ids=token_ids)


@struct
class StreamFigures:
    """Figures of a finished choice: passes with guesses (rounds) and without (plain steps),
    guesses, and wire bytes of draft nodes and targets.

    plain_reason: how many passes took no guesses, and why; "" if all took some.
    num_cached_tokens: of the prompt, which were not computed anew.
    """

    num_rounds: Count
    num_plain_steps: Count
    num_draft_tokens: Count
    num_accepted_tokens: Count
    draft_wire_bytes: Id
    target_wire_bytes: Id
    plain_reason: Annotated[str, MaxLen(512)]
    num_cached_tokens: Count = 0


@message(36, max_bytes=8192)
class FinishedNotice:
    request_id: Id
    choice: Count
    num_tokens: Count
    finish_reason: Annotated[str, MaxLen(16)]
    figures: StreamFigures


@message(37, max_bytes=MAX_REASON_BYTES)
class RequestFailedNotice:
    """The whole request ends with an error.

    code: bad_request, not_found (its model), overloaded, unavailable, deadline, left (its client
    counts as gone) or internal.
    """

    request_id: Id
    code: Code
    reason: Reason


# What a request may want of its prompt: its token ids, their text, or an embedding vector.
TOKENS: Final = "tokens"
TEXT: Final = "text"
EMBEDDING: Final = "embedding"
WANTS: Final = (TOKENS, TEXT, EMBEDDING)


@message(52, max_bytes=MAX_READ_BYTES + 8192, max_tokens=MAX_PROMPT_TOKENS)
class ReadNotice:
    """Answers a request with `wants`. model, model_hash: the model that read the prompt.

    prompt_token_ids: of the prompt. text: the bytes of these tokens, if `text` is wanted.
    embedding: little-endian 32-bit floats, if it is wanted; the vector has length 1.
    """

    request_id: Id
    model: Name
    model_hash: Name
    prompt_token_ids: TokenIds
    text: ReadText = b""
    embedding: Embedding = b""


@message(42, max_bytes=1 << 20)
class PromptLogprobsNotice:
    """Prompt scores for the client, as in PromptScoresNotice; sent once for all choices."""

    request_id: Id
    position: Position
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


# -- large requests in pieces ----------------------------------------------------------------------

# Both frames of a SubmitRequest.
MAX_UPLOAD_BYTES: Final = MAX_SUBMIT_BYTES + 4 * MAX_PROMPT_TOKENS
MAX_PIECE_BYTES: Final = 32_768


@message(47)
class UploadOffer:
    """A client has a SubmitRequest of num_bytes to send over a shared medium.

    num_head_bytes: length of its frame 0, which comes first. priority: as in the request.
    """

    request_id: Id
    num_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    num_head_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    priority: Annotated[int, Range(1, MAX_PRIORITY)]
    link: LinkFields


@message(48)
class UploadGrant:
    """The client may send num_bytes more, delay_us microseconds after it received this message.

    num_bytes: 0 if it must wait for another grant.
    """

    request_id: Id
    num_bytes: Annotated[int, Range(0, MAX_PIECE_BYTES)]
    delay_us: Annotated[int, Range(0, 10_000_000)]


@message(49, max_bytes=MAX_PIECE_BYTES + 1024)
class UploadPiece:
    """Bytes of the offered frames, from `offset` on."""

    request_id: Id
    offset: Count
    data: Annotated[bytes, MaxLen(MAX_PIECE_BYTES)]
