"""The messages between coordinator and nodes, tags 16 to 31, 50 and 51."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from mesh.messages import MaxLen, Range, TokenIds, message, struct
from nodes.engine.sampling import Sampling
from nodes.messages.fields import (
    MAX_GAMMA,
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    MAX_READ_BYTES,
    MAX_REASON_BYTES,
    MAX_RULES_BYTES,
    MAX_STREAMS_PER_MESSAGE,
    MAX_SUBMIT_BYTES,
    MAX_WINDOW,
    ChatMessage,
    Code,
    Count,
    Date,
    Embedding,
    Gamma,
    Id,
    Name,
    NumLogprobs,
    Position,
    PromptText,
    ReadText,
    Reason,
    Stops,
    Text,
    TokenScores,
)


@message(16, max_bytes=MAX_SUBMIT_BYTES, max_tokens=MAX_PROMPT_TOKENS)
class TokenizeRequest:
    """messages: a conversation, for the model's chat template; without one, the prompt as it is.

    date, tools, wants: as in SubmitRequest. token_ids: the prompt, instead of a text.
    """

    request_id: Id
    prompt: PromptText
    messages: Annotated[tuple[ChatMessage, ...], MaxLen(MAX_MESSAGES)] = ()
    date: Date = ""
    tools: PromptText = ""
    token_ids: TokenIds = ()
    wants: Code = ""


@message(17, max_bytes=MAX_REASON_BYTES + MAX_READ_BYTES, max_tokens=MAX_PROMPT_TOKENS)
class TokenizeReply:
    """text, embedding: as in ReadNotice."""

    request_id: Id
    error: Reason
    prompt_token_ids: TokenIds
    text: ReadText = b""
    embedding: Embedding = b""


@message(18, max_bytes=MAX_RULES_BYTES + 16_384, max_tokens=MAX_PROMPT_TOKENS)
class OpenStreamRequest:
    """Hold a stream: prompt and committed tokens, num_prompt_tokens of them prompt.

    num_logprobs: with each committed token its log-probability and those of so many others; -1 for
    none. scores_prompt: those of the prompt's tokens, too. num_leased: tokens that a target may
    decode as soon as it has read all this. num_known: tokens that there are by now, where a draft
    node is told the rest of them later; 0 for those that are here. weight: what its tokens count
    beside those of others. num_guesses: that its client wants in every pass; -1 for as many as pay.
    looks_up: a target guesses from this text and others of its owner, too.
    """

    stream_id: Id
    generation: Id
    owner: Name
    sampling: Sampling
    max_tokens: Count
    stops: Stops
    ignore_eog: bool
    num_prompt_tokens: Count
    token_ids: TokenIds
    num_logprobs: NumLogprobs = -1
    scores_prompt: bool = False
    num_leased: Count = 0
    num_known: Count = 0
    weight: float = 1.0
    num_guesses: Annotated[int, Range(-1, MAX_GAMMA)] = -1
    looks_up: bool = False


@message(19)
class StreamReadyNotice:
    """The stream's prefix is in the cache; the node goes on with it.

    num_read: tokens that a target ran for it; the others it had from before. has_begun: a
    CommitReply of the same pass brings what it was leased when it was opened.
    """

    stream_id: Id
    generation: Id
    num_read: Count = 0
    has_begun: bool = False


@message(20, max_bytes=MAX_REASON_BYTES)
class StreamFailedNotice:
    """This node cannot serve the stream; it has forgotten it. code: as in RequestFailedNotice."""

    stream_id: Id
    generation: Id
    reason: Reason
    code: Code = "unavailable"


@message(21)
class CloseStreamNotice:
    stream_id: Id
    generation: Id


@struct
class LeaseEntry:
    """The target may decode num_tokens after prefix_len tokens without asking again."""

    stream_id: Id
    generation: Id
    prefix_len: Position
    num_tokens: Count


@message(25, max_bytes=32_768)
class LeaseRequest:
    entries: Annotated[tuple[LeaseEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


@struct
class CommitEntry:
    """What one pass committed to one stream.

    prefix_len: tokens before the new ones (prompt included). text: bytes they add, cut before a
    stop string and held back where one may begin. finish_reason: "" while the stream goes on.
    num_compared: guesses, used or not, that are known by now to be right or to be the first wrong
    one of their chain; num_right of them are right. num_late: that came too late to be used.
    num_looked_up: of num_draft_tokens, those that the target looked up itself. num_offered: guesses
    of the draft node that were there when the pass began, 16 at most. best_percent: chance of the
    first guess that there was for the pass, whoever made it.
    """

    stream_id: Id
    generation: Id
    prefix_len: Position
    num_tokens: Count
    num_draft_tokens: Gamma
    num_accepted_tokens: Gamma
    finish_reason: Annotated[str, MaxLen(16)]
    text: Text
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_GAMMA + 1)] = ()
    num_compared: Count = 0
    num_right: Count = 0
    num_late: Count = 0
    num_looked_up: Gamma = 0
    num_offered: Gamma = 0
    best_percent: Annotated[int, Range(0, 100)] = 0


@message(26, max_bytes=1 << 20, max_tokens=(MAX_GAMMA + 1) * MAX_STREAMS_PER_MESSAGE)
class CommitReply:
    """All that one target pass committed.

    pass_s: seconds of the pass. num_read_tokens: of prompts that the pass read besides.
    """

    pass_s: float
    entries: Annotated[tuple[CommitEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    token_ids: TokenIds
    num_read_tokens: Count = 0


@message(27)
class StreamParkedNotice:
    """The target took the stream out of its cache, for want of cells; it goes on by itself.

    generation: until now; from here on the stream has the next one.
    """

    stream_id: Id
    generation: Id


@message(28, max_bytes=1 << 20)
class PromptScoresNotice:
    """Scores of consecutive tokens of a stream's prompt, the first at `position`."""

    stream_id: Id
    generation: Id
    position: Position
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


@message(29)
class ProbeRequest:
    """Compute the probe of this seed: nobody has streams on a target that has not answered it."""

    seed: Id


@message(30)
class ProbeReply:
    """digest: SHA-256 in hex of logits and sampled tokens, see nodes/engine/probe.py."""

    seed: Id
    digest: Annotated[str, MaxLen(64)]


# A guess is sent with its chance of being accepted, in 255ths.
CHANCE_STEPS = 255


@struct
class ChainPart:
    """Consecutive guesses of a stream from the position `start` on, of one chain.

    follow: number of the following, as in OpenStreamRequest.generation of the draft node. chain:
    raised by the draft node whenever it goes back; the first guess of a chain stands at its base.
    chances: of each guess to be accepted if those before it are, in 255ths.
    """

    stream_id: Id
    follow: Id
    chain: Id
    start: Position
    chances: Annotated[bytes, MaxLen(MAX_WINDOW)]


@message(31, max_bytes=32_768, max_tokens=MAX_WINDOW * MAX_STREAMS_PER_MESSAGE)
class GuessNotice:
    """Guesses of a draft node, as it makes them; token_ids: those of all parts in a row. draft_us:
    microseconds that passes of its engine took since its last notice.
    """

    parts: Annotated[tuple[ChainPart, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    token_ids: TokenIds
    draft_us: Count = 0


def parts_of(notice: GuessNotice) -> Iterator[tuple[ChainPart, tuple[int, ...]]]:
    """Each part with its guesses; fewer than it has chances where the sender left some out."""
    offset = 0
    for part in notice.parts:
        count = len(part.chances)
        yield part, notice.token_ids[offset : offset + count]
        offset += count


@struct
class AddedEntry:
    """Tokens that were committed to a stream, for the draft node that follows it.

    prefix_len: tokens before them. num_draft_tokens: guesses of this draft node that the passes
    took; num_offered: that were there when the passes began.
    """

    stream_id: Id
    follow: Id
    prefix_len: Position
    num_tokens: Count
    num_draft_tokens: Gamma
    num_offered: Gamma


@message(50, max_bytes=32_768, max_tokens=MAX_PROMPT_TOKENS)
class CommitNotice:
    """What has been committed to the streams that a draft node follows. rate_bps: what its guesses
    may use of its link from now on, which shares a medium with others; 0: as before."""

    entries: Annotated[tuple[AddedEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    new_token_ids: TokenIds
    rate_bps: Count = 0


@struct
class HoldEntry:
    """What a stream waits for before it goes into a pass. group: of the streams that go together,
    0 for none: it waits no longer. num_guesses: of a draft node. hold_us: microseconds since its
    last token after which it goes all the same."""

    stream_id: Id
    generation: Id
    group: Count
    num_guesses: Gamma
    hold_us: Annotated[int, Range(0, 10_000_000)]


@message(51, max_bytes=32_768)
class HoldNotice:
    """The coordinator's plan has streams wait for their guesses, or go at once again."""

    entries: Annotated[tuple[HoldEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
