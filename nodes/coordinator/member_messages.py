"""Handles members' messages about streams and requests, whole or uploaded in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.codec import decode
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import Roster
from nodes.coordinator.requests.intake import Intake
from nodes.coordinator.requests.uploads import Uploads
from nodes.coordinator.sends import Send
from nodes.coordinator.serving import Serving
from nodes.coordinator.status.document import Reporting
from nodes.messages import (
    CancelRequest,
    ChainPart,
    CommitReply,
    GuessNotice,
    PromptScoresNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    SubmitRequest,
    TokenizeReply,
    UploadOffer,
    UploadPiece,
    parts_of,
)
from nodes.messages.access import ForbiddenError
from nodes.scheduler.instructions import Instruction
from nodes.worker.stream import StreamId

# Error codes taken from targets. Any other means only that the target cannot serve the stream.
_CODES_OF_TARGETS = frozenset({"bad_request", "internal"})


class MemberMessages:
    def __init__(
        self,
        roster: Roster,
        serving: Serving,
        intake: Intake,
        uploads: Uploads,
        reporting: Reporting,
    ) -> None:
        self._roster = roster
        self._serving = serving
        self._intake = intake
        self._uploads = uploads
        self._reporting = reporting

    def from_node(self, node: NodeRecord, message: Any, num_bytes: int, now: float) -> list[Send]:
        """Return the messages to send in response; stale messages are counted and dropped."""
        if node.scheduler is None:
            return self._from_draft(node, message, num_bytes, now)
        scheduler, out = node.scheduler, list[Instruction]()
        match message:
            case CommitReply():
                streams = [StreamId(e.stream_id) for e in message.entries]
                self._serving.ledger.charge(streams, num_bytes, to_draft=False)
                node.busy_s += message.pass_s
                out = scheduler.committed(message, now)
            case StreamReadyNotice(stream_id=s, generation=g, num_read=num_read):
                out = scheduler.target_ready(StreamId(s), g, num_read, has_begun=message.has_begun)
            case StreamFailedNotice(stream_id=s, generation=g, reason=reason):
                code = message.code if message.code in _CODES_OF_TARGETS else "unavailable"
                out = scheduler.target_failed(StreamId(s), g, reason, code)
            case StreamParkedNotice(stream_id=s, generation=g):
                out = scheduler.target_parked(StreamId(s), g)
            case PromptScoresNotice():
                passed_on = self._serving.prompt_scored(node, message, now)
                self._reporting.num_stale += passed_on is None
                return passed_on or []
            case TokenizeReply():
                return self._on_tokenized(node, message, now)
            case _:
                self._reporting.num_stale += 1
        return self._serving.carry_out(node, out, now)

    def _from_draft(self, node: NodeRecord, message: Any, num_bytes: int, now: float) -> list[Send]:
        out: list[Send] = []
        match message:
            case GuessNotice():
                node.busy_s += message.draft_us / 1e6
                streams = [StreamId(part.stream_id) for part in message.parts]
                self._serving.ledger.charge(streams, num_bytes, to_draft=True)
                for target, parts in self._by_target(message):
                    if target.scheduler is not None:
                        passed_on = target.scheduler.guessed(node.name, parts, now)
                        out += self._serving.carry_out(target, passed_on, now)
            case (
                StreamReadyNotice(stream_id=s, generation=g)
                | StreamFailedNotice(stream_id=s, generation=g)
            ):
                holder = self._roster.node(self._serving.ledger.target_of(StreamId(s)))
                if holder is None or holder.scheduler is None:
                    return []
                if isinstance(message, StreamReadyNotice):
                    holder.scheduler.draft_ready(node.name, StreamId(s), g)
                else:
                    failure = node.name, StreamId(s), g, message.reason, message.code
                    failed = holder.scheduler.draft_failed(*failure)
                    out += self._serving.carry_out(holder, failed, now)
            case _:
                self._reporting.num_stale += 1
        return out

    def _by_target(
        self, notice: GuessNotice
    ) -> Iterable[tuple[NodeRecord, list[tuple[ChainPart, tuple[int, ...]]]]]:
        """Group a notice's parts and their guesses by the target that serves their streams."""
        found: dict[str, list[tuple[ChainPart, tuple[int, ...]]]] = {}
        for part, guesses in parts_of(notice):
            name = self._serving.ledger.target_of(StreamId(part.stream_id))
            found.setdefault(name, []).append((part, guesses))
        for name, parts in found.items():
            target = self._roster.node(name)
            if target is not None:
                yield target, parts

    def _on_tokenized(self, node: NodeRecord, reply: TokenizeReply, now: float) -> list[Send]:
        request, was_asked = self._serving.ledger.tokenizing.answered(node.name, reply.request_id)
        out = self._intake.ask_tokenizers() if was_asked else []
        if request is None:
            self._reporting.num_stale += 1
            return out
        if reply.error:
            return [*out, *self._serving.fail(request, "bad_request", reply.error, now)]
        if request.submit.wants:
            return [*out, self._serving.was_read(request, node, reply)]
        return [*out, *self._serving.open(request, node, reply.prompt_token_ids, now)]

    def from_client(
        self, peer: bytes, role: str, sender: str, message: Any, now: float
    ) -> list[Send] | None:
        """Return the messages to send in response; None if the message is not about requests.

        sender: the name under which requests share prefixes. Raises DecodeError or ForbiddenError.
        """
        match message:
            case SubmitRequest():
                self._uploads.forget(peer, message.request_id)
                return self._submit(peer, role, sender, message, now)
            case UploadOffer():
                return self._uploads.offered(peer, message, now)
            case UploadPiece():
                return self._uploaded(peer, role, sender, message, now)
            case CancelRequest(request_id=request_id):
                self._uploads.forget(peer, request_id)
                request = self._serving.ledger.requests.get((peer, request_id))
                return self._serving.cancel(request, now) if request is not None else []
        return None

    def _submit(
        self, peer: bytes, role: str, sender: str, submit: SubmitRequest, now: float
    ) -> list[Send]:
        self._reporting.num_submitted += 1
        return self._intake.submit(peer, role, sender, submit, now)

    def _uploaded(
        self, peer: bytes, role: str, sender: str, piece: UploadPiece, now: float
    ) -> list[Send]:
        """Take a piece of a large request.

        Raises DecodeError or ForbiddenError if the whole is no request.
        """
        frames, is_known = self._uploads.arrived(peer, piece, now)
        self._reporting.num_stale += not is_known
        if frames is None:
            return self._uploads.grants(now)
        # If this raises, the next tick grants the medium that is free now, so others do not wait.
        whole = decode(frames)
        if not isinstance(whole.message, SubmitRequest):
            kind = type(whole.message).__name__
            raise ForbiddenError(f"only requests may be uploaded, not {kind}")
        if whole.message.request_id != piece.request_id:
            raise ForbiddenError("an upload has another request id than its offer")
        return [*self._uploads.grants(now), *self._submit(peer, role, sender, whole.message, now)]
