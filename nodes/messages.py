"""The messages about models and streams, tags 16 and up. PROTOCOL.md says what each means."""

from __future__ import annotations

from typing import Annotated, Final

from mesh.messages import MaxLen, Range, TokenIds, message, struct
from nodes.engine.rules import (
    MAX_BIASES,
    MAX_GRAMMAR_CHARS,
    NO_RULES,
    Grammar,
    LogitBias,
    LogitRules,
)
from nodes.engine.sampling import Sampling
from policies.confidence import MAX_BINS

MAX_GAMMA: Final = 16
MAX_STREAMS_PER_MESSAGE: Final = 256
MAX_PROMPT_TOKENS: Final = 131_072
MAX_STOPS: Final = 8
MAX_MESSAGES: Final = 1024
# What OpenAI's API gives at most.
MAX_TOP_LOGPROBS: Final = 20
_MAX_RULES_BYTES: Final = 4 * MAX_GRAMMAR_CHARS + 20 * MAX_BIASES
# Of a SubmitRequest without its token ids: what takes on its text has to hold that.
_MAX_SUBMIT_BYTES: Final = (1 << 18) + _MAX_RULES_BYTES + 65_536
# With a reason, whose characters take up to 4 bytes each.
_MAX_REASON_BYTES: Final = 8192
# A plan of 256 streams is some 60 KB.
MAX_TRACE_BYTES: Final = 130_000
# One padded message holds it.
MAX_STATUS_BYTES: Final = 400_000

# Of a SubmitRequest, both frames.
MAX_UPLOAD_BYTES: Final = _MAX_SUBMIT_BYTES + 4 * MAX_PROMPT_TOKENS
MAX_PIECE_BYTES: Final = 32_768
# A weight: twice the priority counts twice as much.
MAX_PRIORITY: Final = 10
DEFAULT_PRIORITY: Final = 5

Id = Annotated[int, Range(0, 2**63 - 1)]
Count = Annotated[int, Range(0, 2**31 - 1)]
Position = Annotated[int, Range(0, 2**31 - 1)]
Gamma = Annotated[int, Range(0, MAX_GAMMA)]
Name = Annotated[str, MaxLen(256)]
Reason = Annotated[str, MaxLen(1024)]
Code = Annotated[str, MaxLen(32)]
Stops = Annotated[tuple[Annotated[str, MaxLen(256)], ...], MaxLen(MAX_STOPS)]
PromptText = Annotated[str, MaxLen(1 << 18)]
Text = Annotated[bytes, MaxLen(8192)]

Piece = Annotated[bytes, MaxLen(4096)]
NumLogprobs = Annotated[int, Range(-1, MAX_TOP_LOGPROBS)]

struct(LogitBias)
struct(Grammar)
struct(LogitRules)
struct(Sampling)


@struct
class ChatMessage:
    """One message of a conversation; role: as the model's chat template calls it."""

    role: Annotated[str, MaxLen(64)]
    content: PromptText


@struct
class Score:
    """A token, the logarithm of its probability by the raw logits, and its bytes."""

    token_id: Count
    logprob: float
    piece: Piece


@struct
class TokenScores:
    """A token of a text and, best first, what was most probable in its place."""

    chosen: Score
    top: Annotated[tuple[Score, ...], MaxLen(MAX_TOP_LOGPROBS)]


@struct
class CostFields:
    """A cost table on the wire; fields as in policies.latency.CostTable."""

    sizes: tuple[Count, ...]
    seconds: tuple[float, ...]
    per_cell_s: float
    per_own_cell_s: float


@struct
class ConfidenceBin:
    """A share of a draft's guesses, and the rate at which its target accepted these."""

    share: Annotated[float, Range(0, 1)]
    rate: Annotated[float, Range(0, 1)]


@struct
class LinkFields:
    """What a node knows of its way to the coordinator.

    air: the medium it shares with other nodes that name the same, "" for none. rate_bps: of the
    link alone, 0 where it is to be measured. frame_s: what a message takes of the medium at least.
    shares: the medium is shared all the time, not in turns.
    """

    air: Name
    rate_bps: Annotated[float, Range(0, 1e12)]
    frame_s: Annotated[float, Range(0, 10)]
    shares: bool = False


@struct
class EngineProfile:
    """What a node tells of its engine in Hello; fields as in engine.protocol.EngineInfo.

    confidence: of a draft, where it was measured.
    """

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
    can_roll_back: bool
    emulated: bool
    confidence: Annotated[tuple[ConfidenceBin, ...], MaxLen(MAX_BINS)]
    decode: CostFields
    prefill: CostFields
    link: LinkFields = LinkFields("", 0.0, 0.0)


@message(16, max_bytes=_MAX_SUBMIT_BYTES)
class TokenizeRequest:
    """messages: a conversation, for the model's chat template; without one, the prompt as it is."""

    request_id: Id
    prompt: PromptText
    messages: Annotated[tuple[ChatMessage, ...], MaxLen(MAX_MESSAGES)] = ()


@message(17, max_bytes=_MAX_REASON_BYTES, max_tokens=MAX_PROMPT_TOKENS)
class TokenizeReply:
    request_id: Id
    error: Reason
    prompt_token_ids: TokenIds


@message(18, max_bytes=_MAX_RULES_BYTES + 16_384, max_tokens=MAX_PROMPT_TOKENS)
class OpenStreamRequest:
    """Hold a stream: prompt and committed tokens, num_prompt_tokens of them prompt.

    num_logprobs: with each committed token its log-probability and those of so many others; -1 for
    none. scores_prompt: those of the prompt's tokens, too.
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


@message(19)
class StreamReadyNotice:
    """The stream's prefix is in the cache; guesses can be drafted or verified.

    num_read: tokens that a target ran for it; the others it had from before.
    """

    stream_id: Id
    generation: Id
    num_read: Count = 0


@message(20, max_bytes=_MAX_REASON_BYTES)
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
class DraftEntry:
    """One stream of a DraftRequest. prefix_len: tokens that the new ones follow.

    stop_percent: guesses end before the first one whose chance of being accepted, with all before
    it, is lower.
    """

    stream_id: Id
    generation: Id
    prefix_len: Position
    num_new_tokens: Count
    gamma: Gamma
    stop_percent: Annotated[int, Range(0, 100)]


@message(22, max_bytes=32_768, max_tokens=2 * MAX_PROMPT_TOKENS - 1)
class DraftRequest:
    """Draft up to gamma tokens for each stream after its newly committed ones.

    ahead: go on after the answer, as if all guesses were accepted, until there are new tokens.
    hold_us: microseconds after the request before which the answer is not sent: others of the
    medium have their turns until then. rate_bps: what the answer keeps to, where the medium is
    shared all the time; 0 for no limit.
    """

    round: Id
    entries: Annotated[tuple[DraftEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    new_token_ids: TokenIds
    ahead: bool = False
    hold_us: Annotated[int, Range(0, 10_000_000)] = 0
    rate_bps: Count = 0


@struct
class GuessEntry:
    """One stream's guesses: num_draft_tokens of the message's ids, after prefix_len tokens."""

    stream_id: Id
    generation: Id
    prefix_len: Position
    num_draft_tokens: Gamma


@message(23, max_bytes=32_768, max_tokens=MAX_GAMMA * MAX_STREAMS_PER_MESSAGE)
class DraftReply:
    """num_ready: guesses that had been made before they were asked for. num_wasted: tokens that
    had been drafted ahead of these and proved to be of no use. draft_us: microseconds from the
    request's arrival until the guesses were there; 0 if not known.
    """

    round: Id
    entries: Annotated[tuple[GuessEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    draft_token_ids: TokenIds
    num_ready: Count = 0
    num_wasted: Count = 0
    draft_us: Count = 0


@message(24, max_bytes=32_768, max_tokens=MAX_GAMMA * MAX_STREAMS_PER_MESSAGE)
class VerifyRequest:
    """Verify all guesses of all streams in one pass and commit what they earn."""

    round: Id
    entries: Annotated[tuple[GuessEntry, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]
    draft_token_ids: TokenIds


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


@message(26, max_bytes=1 << 20, max_tokens=(MAX_GAMMA + 1) * MAX_STREAMS_PER_MESSAGE)
class CommitReply:
    """All that one target pass committed, verified and leased streams together.

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


@message(32, max_bytes=_MAX_SUBMIT_BYTES, max_tokens=MAX_PROMPT_TOKENS)
class SubmitRequest:
    """A client's request: a conversation, text or token ids, and how many choices of it.

    model: "" for any. user: whose request it is among those of this client. num_logprobs and
    scores_prompt as in OpenStreamRequest; max_tokens may be 0 only where the prompt is scored.
    gamma: -1 lets the policy choose. seed: -1 asks for a random one. priority: what its speed
    counts against that of others.
    """

    request_id: Id
    prompt: PromptText
    num_choices: Annotated[int, Range(1, 64)]
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


@message(33)
class CancelRequest:
    request_id: Id


@message(34)
class StartedNotice:
    request_id: Id
    seed: Id
    num_prompt_tokens: Count
    exact: bool
    target: Name
    draft: Name
    emulated: bool


@message(35, max_bytes=1 << 20, max_tokens=(MAX_GAMMA + 1) * MAX_STREAMS_PER_MESSAGE)
class TokensNotice:
    """Output tokens of one choice from `position` (0: the first output token) on.

    num_draft_tokens guesses were verified for them; the first num_accepted_tokens tokens are
    guesses that were right.
    """

    request_id: Id
    choice: Count
    position: Position
    text: Text
    token_ids: TokenIds
    num_draft_tokens: Gamma = 0
    num_accepted_tokens: Gamma = 0
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_GAMMA + 1)] = ()


@struct
class StreamFigures:
    """What a finished choice did: verify rounds, plain steps, guesses, bytes to and from drafts.

    plain_reason: why it was decoded without guesses at the end, or "".
    """

    num_rounds: Count
    num_plain_steps: Count
    num_draft_tokens: Count
    num_accepted_tokens: Count
    draft_wire_bytes: Id
    target_wire_bytes: Id
    plain_reason: Annotated[str, MaxLen(256)]


@message(36, max_bytes=8192)
class FinishedNotice:
    request_id: Id
    choice: Count
    num_tokens: Count
    finish_reason: Annotated[str, MaxLen(16)]
    figures: StreamFigures


@message(37, max_bytes=_MAX_REASON_BYTES)
class RequestFailedNotice:
    """The whole request ends here.

    code: bad_request, not_found (its model), overloaded, unavailable or internal.
    """

    request_id: Id
    code: Code
    reason: Reason


@message(38)
class NodesRequest:
    request_id: Id


@struct
class NodeFields:
    """num_streams: of a target. rtt_us: round trip of a Ping, 0 if not known."""

    node: Name
    role: Name
    model: Name
    exact: bool
    emulated: bool
    num_streams: Count
    is_draining: bool = False
    rtt_us: Count = 0


@message(39, max_bytes=65_536)
class NodesReply:
    request_id: Id
    nodes: Annotated[tuple[NodeFields, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


@message(40)
class TraceRequest:
    """A client asks for what schedulers have recorded after record `after`.

    Recording goes on for some seconds after each of these. after: -1 begins: with the plans in
    force as the first records.
    """

    request_id: Id
    after: Annotated[int, Range(-1, 2**63 - 1)]


@message(41, max_bytes=MAX_TRACE_BYTES + 1024)
class TraceReply:
    """Records as JSON lines, none of them cut; never tokens or text of a stream.

    last: number of the last record that was looked at. num_lost: records that were forgotten
    before they were asked for, or are too large. has_more: others are there already.
    """

    request_id: Id
    last: Id
    num_lost: Id
    has_more: bool
    records: Annotated[bytes, MaxLen(MAX_TRACE_BYTES)]


@message(42, max_bytes=1 << 20)
class PromptLogprobsNotice:
    """As PromptScoresNotice, to the client: of the prompt of all choices, sent once."""

    request_id: Id
    position: Position
    scores: Annotated[tuple[TokenScores, ...], MaxLen(MAX_STREAMS_PER_MESSAGE)]


@message(43)
class StatusRequest:
    request_id: Id


@message(44, max_bytes=MAX_STATUS_BYTES + 1024)
class StatusReply:
    """The status document (docs/status.md), as JSON; never tokens or text of a stream."""

    request_id: Id
    status: Annotated[bytes, MaxLen(MAX_STATUS_BYTES)]


@message(45)
class NodeCommandRequest:
    """An operator's word about a node. command: drain, undrain or drop."""

    request_id: Id
    command: Annotated[str, MaxLen(16)]
    node: Name


@message(46, max_bytes=_MAX_REASON_BYTES)
class NodeCommandReply:
    """error: "" if it was done. num_streams: those that the node still serves."""

    request_id: Id
    error: Reason
    num_streams: Count


@message(47)
class UploadOffer:
    """A client has a SubmitRequest of so many bytes to send over a shared medium.

    num_head_bytes: of its frame 0, which comes first. priority: as in the request.
    """

    request_id: Id
    num_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    num_head_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    priority: Annotated[int, Range(1, MAX_PRIORITY)]
    link: LinkFields


@message(48)
class UploadGrant:
    """The client may send num_bytes more, delay_us microseconds after this has come in.

    num_bytes: 0 where it has to wait for another grant.
    """

    request_id: Id
    num_bytes: Annotated[int, Range(0, MAX_PIECE_BYTES)]
    delay_us: Annotated[int, Range(0, 10_000_000)]


@message(49, max_bytes=MAX_PIECE_BYTES + 1024)
class UploadPiece:
    """Bytes of the frames that were offered, from `offset` on."""

    request_id: Id
    offset: Count
    data: Annotated[bytes, MaxLen(MAX_PIECE_BYTES)]
