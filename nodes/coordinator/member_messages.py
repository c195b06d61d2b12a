"""Handles members' messages about streams and requests, whole or uploaded in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mesh.codec import decode
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.requests.request import SCORES_LOST
from nodes.coordinator.sends import Send, streams_of
from nodes.messages import (
    CancelRequest,
    ChainPart,
    CommitReply,
    DraftInsideNotice,
    GuessNotice,
    PromptScoresNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    UploadOffer,
    UploadPiece,
    with_tokens,
)
from nodes.messages.access import ForbiddenError
from nodes.scheduler.instructions import Instruction
from nodes.worker.stream import StreamId

if TYPE_CHECKING:
    from nodes.coordinator.state import CoordinatorState

# Error codes taken from targets. Any other means only that the target cannot serve the stream.
_CODES_OF_TARGETS = frozenset({"bad_request", "internal"})


def from_node(
    state: CoordinatorState, node: NodeRecord, message: Any, num_bytes: int, now: float
) -> list[Send]:
    """Return the messages to send in response; stale messages are counted and dropped."""
    if node.scheduler is None:
        return _from_draft(state, node, message, num_bytes, now)
    scheduler, out = node.scheduler, list[Instruction]()
    match message:
        case CommitReply():
            state.serving.ledger.count_bytes(message, num_bytes, to_draft=False)
            node.busy_s += message.pass_s + message.turn_s
            lost = _without_scores(state, node, message, now)
            before = dict(scheduler.streams)
            out = scheduler.committed(message, now)
            state.tracing.committed(node, before, message, now)
            return [*lost, *state.serving.carry_out(node, out, now)]
        case StreamReadyNotice(stream_id=s, generation=g, num_read=num_read):
            out = scheduler.target_ready(StreamId(s), g, num_read, has_begun=message.has_begun)
        case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
            code = message.code if message.code in _CODES_OF_TARGETS else "unavailable"
            out = scheduler.target_failed(StreamId(s), g, reason, code)
        case StreamParkedNotice(stream_id=s, generation=g):
            out = scheduler.target_parked(StreamId(s), g)
        case PromptScoresNotice():
            passed_on = state.serving.prompt_scored(node, message, now)
            state.reporting.num_stale += passed_on is None
            return passed_on or []
        case DraftInsideNotice(model=model, why=why):
            scheduler.inside, node.draft_why = model, why
        case TokenizeReply():
            return _on_tokenized(state, node, message, now)
        case _:
            state.reporting.num_stale += 1
    return state.serving.carry_out(node, out, now)


def _without_scores(
    state: CoordinatorState, node: NodeRecord, reply: CommitReply, now: float
) -> list[Send]:
    """End the requests of a pass that still await scores of their prompts: these precede tokens."""
    out: list[Send] = []
    for stream_id in streams_of(reply):
        choice = state.serving.ledger.streams.get(stream_id)
        if choice is not None and choice.target == node.name and choice.request.awaits_scores:
            # With this code the client submits again what was lost.
            out += state.serving.fail(choice.request, "left", SCORES_LOST, now)
    return out


def _from_draft(
    state: CoordinatorState, node: NodeRecord, message: Any, num_bytes: int, now: float
) -> list[Send]:
    out: list[Send] = []
    match message:
        case GuessNotice():
            node.busy_s += message.draft_us / 1e6
            state.serving.ledger.count_bytes(message, num_bytes, to_draft=True)
            for target, parts in _by_target(state, message):
                if target.scheduler is not None:
                    state.tracing.guessed(target, node.name, parts, now)
                    passed_on = target.scheduler.guessed(node.name, parts, now)
                    out += state.serving.carry_out(target, passed_on, now)
        case (
            StreamReadyNotice(stream_id=s, generation=g)
            | StreamFailedNotice(stream_id=s, generation=g)
        ):
            holder = state.roster.node(state.serving.ledger.target_of(StreamId(s)))
            if holder is None or holder.scheduler is None:
                return []
            if isinstance(message, StreamReadyNotice):
                holder.scheduler.draft_ready(node.name, StreamId(s), g)
            else:
                failure = node.name, StreamId(s), g, message.reason, message.code
                failed = holder.scheduler.draft_failed(*failure)
                out += state.serving.carry_out(holder, failed, now)
        case _:
            state.reporting.num_stale += 1
    return out


def _by_target(
    state: CoordinatorState, notice: GuessNotice
) -> Iterable[tuple[NodeRecord, list[tuple[ChainPart, tuple[int, ...]]]]]:
    """Group a notice's parts and their guesses by the target that serves their streams."""
    found: dict[str, list[tuple[ChainPart, tuple[int, ...]]]] = {}
    for part, guesses in with_tokens(notice.parts, notice.token_ids):
        name = state.serving.ledger.target_of(StreamId(part.stream_id))
        found.setdefault(name, []).append((part, guesses))
    for name, parts in found.items():
        target = state.roster.node(name)
        if target is not None:
            yield target, parts


def _on_tokenized(
    state: CoordinatorState, node: NodeRecord, reply: TokenizeReply, now: float
) -> list[Send]:
    request = state.serving.ledger.tokenizing.answered(node.name, reply.request_id)
    out = state.intake.ask_tokenizers()
    if request is None:
        state.reporting.num_stale += 1
        return out
    if reply.error:
        return [*out, *state.serving.fail(request, "bad_request", reply.error, now)]
    if request.submit.wants:
        return [*out, state.serving.was_read(request, node, reply)]
    return [*out, *state.serving.make_streams(request, node, reply.prompt_token_ids, now)]


def from_client(
    state: CoordinatorState, peer: bytes, role: str, sender: str, message: Any, now: float
) -> list[Send] | None:
    """Return the messages to send in response; None if the message is not about requests.

    sender: the name under which requests share prefixes. Raises DecodeError or ForbiddenError.
    """
    match message:
        case SubmitRequest():
            state.uploads.forget(peer, message.request_id)
            return _submit(state, peer, role, sender, message, now)
        case UploadOffer():
            return state.uploads.offered(peer, message, now)
        case UploadPiece():
            return _uploaded(state, peer, role, sender, message, now)
        case CancelRequest(request_id=request_id):
            state.uploads.forget(peer, request_id)
            request = state.serving.ledger.request(peer, request_id)
            return state.serving.cancel(request, now) if request is not None else []
    return None


def _submit(
    state: CoordinatorState, peer: bytes, role: str, sender: str, submit: SubmitRequest, now: float
) -> list[Send]:
    state.reporting.num_submitted += 1
    return state.intake.submit(peer, role, sender, submit, now)


def _uploaded(
    state: CoordinatorState, peer: bytes, role: str, sender: str, piece: UploadPiece, now: float
) -> list[Send]:
    """Take a piece of a large request.

    Raises DecodeError or ForbiddenError if the whole is no request.
    """
    frames, is_known = state.uploads.arrived(peer, piece, now)
    state.reporting.num_stale += not is_known
    if frames is None:
        return state.uploads.grants(now)
    # If this raises, the next tick grants the medium that is free now, so others do not wait.
    whole = decode(frames)
    if not isinstance(whole.message, SubmitRequest):
        kind = type(whole.message).__name__
        raise ForbiddenError(f"only requests may be uploaded, not {kind}")
    if whole.message.request_id != piece.request_id:
        raise ForbiddenError("an upload has another request id than its offer")
    return [*state.uploads.grants(now), *_submit(state, peer, role, sender, whole.message, now)]
