"""The messages between coordinator and nodes, tags 16 to 31, 50, 51 and 54."""

from __future__ import annotations

from typing import Annotated

from airdraft.mesh.messages import MaxLen, Range, Seconds, TokenIds, message, struct
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages.fields import (
    MAX_GAMMA,
    MAX_HOLD_US,
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    MAX_READ_BYTES,
    MAX_REASON_BYTES,
    MAX_RULES_BYTES,
    MAX_STREAMS_PER_MESSAGE,
    MAX_SUBMIT_BYTES,
    MAX_WINDOW,
    MOST_OWNERS,
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
    StreamId,
    Text,
    TokenScores,
)


@message(16, max_bytes=MAX_SUBMIT_BYTES, max_tokens=MAX_PROMPT_TOKENS)
class TokenizeRequest:
    """Turn a prompt into token ids.

    messages: a conversation for the model's chat template; if empty, the prompt is taken as it is.
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
    """Open a stream on a target or draft node.

    generation: raised each time the stream is placed anew, so that messages about an earlier
    placement can be dropped. token_ids: num_prompt_tokens tokens of the prompt, then the committed
    ones. num_logprobs: number
    of alternatives reported, with log-probabilities, beside each committed token's own; -1 for no
    log-probabilities. scores_prompt: report those of the prompt's tokens too. num_leased: tokens
    that a target may decode once it has read token_ids. num_known: tokens that the stream has, if
    a draft node receives the rest of them later; 0 if token_ids has all. weight: the weight of its
    tokens against those of other streams. num_guesses: guesses in every pass, as its client wants;
    -1 for as many as pay. looks_up: a target also takes guesses from this and its owner's texts.
    """

    stream_id: Annotated[StreamId, Range(0, 2**63 - 1)]
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

    @property
    def num_committed(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def ends_at_eog(self) -> bool:
        """Whether an end-of-text token ends it; always so with a grammar, which sets the end."""
        return not self.ignore_eog or bool(self.sampling.rules.grammar.kind)


@message(19)
class StreamReadyNotice:
    """The stream's prefix is in the KV cache, and the node continues it.

    num_read: tokens before the last one that a target computed for it; the others were cached.
    has_begun: a CommitReply of the same pass has the tokens of the lease in its OpenStreamRequest.
    """

    stream_id: Id
    generation: Id
    num_read: Count = 0
    has_begun: bool = False


@message(20, max_bytes=MAX_REASON_BYTES)
class StreamFailedNotice:
    """This node cannot serve the stream and has dropped it. code: as in RequestFailedNotice."""

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
    """The target may decode num_tokens after prefix_len tokens without another lease."""

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

    prefix_len: tokens before the new ones, including the prompt. text: bytes that they add, cut
    before a stop string and held back where one may begin. finish_reason: "" while the stream goes
    on. num_compared: tokens for which there were guesses, used or not, of chains that had been
    right until then. num_right, num_other: those for which the chain that promised most was right,
    and those for which only another one was. num_late: guesses that came too late to be used.
    num_looked_up, num_in_turns: those of num_draft_tokens that the target looked up itself, and
    those of the draft model in its process. num_offered: guesses of the draft node that were
    present when the pass began, 16 at most. best_percent: chance of the first guess available for
    the pass, from any source.
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
    num_in_turns: Gamma = 0
    num_other: Count = 0


@message(26, max_bytes=1 << 20, max_tokens=(MAX_GAMMA + 1) * MAX_STREAMS_PER_MESSAGE)
class CommitReply:
    """All that one target pass committed.

    pass_s: seconds of the pass. num_read_tokens: prompt tokens that the same pass read. turn_s:
    seconds that the draft model in the target's process took before it.
    """

    pass_s: Seconds
    entries: Annotated[tuple[CommitEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    token_ids: TokenIds
    num_read_tokens: Count = 0
    turn_s: Seconds = 0.0


@message(27)
class StreamParkedNotice:
    """The target removed the stream from its KV cache for lack of cells, or has no room for it yet.
    It resumes it by itself.

    generation: the one until now; the stream continues with the next one.
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
    """Compute the probe of this seed. A target gets no streams before it has answered."""

    seed: Id


@message(30)
class ProbeReply:
    """digest: SHA-256, in hex, of logits and sampled tokens; see nodes/engine/selftest.py."""

    seed: Id
    digest: Annotated[str, MaxLen(64)]


# A guess is sent with its chance of being accepted, in 255ths.
CHANCE_STEPS = 255


@struct
class ChainPart:
    """Consecutive guesses of one chain of a stream, from position `start` on.

    follow: generation of the draft node's OpenStreamRequest. chain: its number. A stream has
    several chains, for different outcomes. The first guess of each follows committed tokens, so a
    chain that leaves another one repeats what both have. chances: for each guess the chance, in
    255ths, that it is accepted if those before it are.
    """

    stream_id: Id
    follow: Id
    chain: Id
    start: Position
    chances: Annotated[bytes, MaxLen(MAX_WINDOW)]

    @property
    def num_tokens(self) -> int:
        return len(self.chances)


@message(31, max_bytes=32_768, max_tokens=MAX_WINDOW * MAX_STREAMS_PER_MESSAGE)
class GuessNotice:
    """Guesses that a draft node has made. token_ids: the guesses of all parts in order. draft_us:
    microseconds that its engine's passes took since its last notice.
    """

    parts: Annotated[tuple[ChainPart, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    token_ids: TokenIds
    draft_us: Annotated[int, Range(0, 86_400_000_000)] = 0


@struct
class AddedEntry:
    """Tokens that were committed to a stream, for the draft node that follows it.

    prefix_len: tokens before them.
    """

    stream_id: Id
    follow: Id
    prefix_len: Position
    num_tokens: Count


@message(50, max_bytes=32_768, max_tokens=MAX_PROMPT_TOKENS)
class CommitNotice:
    """Commits to the streams that a draft node follows. rate_bps: the rate that its guesses may use
    from now on of a link that shares a medium with others; 0: as before."""

    entries: Annotated[tuple[AddedEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    new_token_ids: TokenIds
    rate_bps: Count = 0


@struct
class HoldEntry:
    """What a stream waits for before it joins a pass. group: number of the streams that join a pass
    together; 0: it no longer waits. num_guesses: guesses of a draft node that it waits for.
    hold_us: microseconds since its last token after which it joins in any case."""

    stream_id: Id
    generation: Id
    group: Count
    num_guesses: Gamma
    hold_us: Annotated[int, Range(0, MAX_HOLD_US)]


@message(51, max_bytes=32_768)
class HoldNotice:
    """By the coordinator's plan, streams wait for their guesses or no longer wait."""

    entries: Annotated[tuple[HoldEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


@message(72, max_bytes=1 << 18)
class OwnersNotice:
    """The coordinator tells a target the names of all authorized keys: what others have left there
    is deleted."""

    names: Annotated[tuple[Name, ...], MaxLen(MOST_OWNERS)]


@message(54)
class DraftInsideNotice:
    """The draft model that a target runs in its own process, in turns with its passes.

    model: its name; "" if there is none. why: how it came to that.
    """

    model: Name
    why: Reason
