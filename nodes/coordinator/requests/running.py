"""Opens, moves and ends streams, and passes on what they produce."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from airdraft.mesh.json_form import copied_from
from airdraft.mesh.messages import Ping
from airdraft.nodes.coordinator.data import Data, Sender
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.members.roster import PROOF
from airdraft.nodes.coordinator.requests import placing
from airdraft.nodes.coordinator.requests.request import (
    SCORES_LOST,
    AwaitsScores,
    Placed,
    Request,
    RequestStream,
    Serving,
)
from airdraft.nodes.coordinator.requests.suspects import Process, Suspicion, accused
from airdraft.nodes.coordinator.sends import Send, streams_of
from airdraft.nodes.messages import (
    MAX_DEADLINE_S,
    CommitReply,
    DraftInsideNotice,
    FinishedNotice,
    PromptScoresNotice,
    RequestFailedNotice,
    StartedNotice,
    StreamFailedNotice,
    StreamFigures,
    StreamParkedNotice,
    StreamReadyNotice,
    TokensNotice,
)
from airdraft.nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
)
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.worker.stream import StreamId

logger = logging.getLogger(__name__)

_MAX_REASON: Final = 1024
_MAX_PLAIN_REASON: Final = 512
_MAX_DRAFT_NAMES: Final = 256
# Error codes taken from targets. Any other means only that the target cannot serve the stream.
_CODES_OF_TARGETS: Final = frozenset({"bad_request", "internal"})


# -- what schedulers say ---------------------------------------------------------------------------


def deliver(
    data: Data, target: TargetRecord, instructions: Iterable[Instruction], now: float
) -> list[Send]:
    """Returns a scheduler's instructions as messages, and ends streams and requests as they say.

    An instruction about a stream that an earlier one has ended does nothing.
    """
    out: list[Send] = []
    for instruction in instructions:
        match instruction:
            case ToTarget(message=message):
                out.append(Send(target.peer, message))
            case ToDraft(node=name, message=message):
                if (draft := data.roster.node(name)) is not None:
                    out.append(Send(draft.peer, message))
            case Emit(stream_id=stream_id):
                if (stream := data.requests.streams.get(stream_id)) is not None:
                    num_tokens = len(instruction.token_ids)
                    data.requests.note_tokens(stream, num_tokens, instruction.position)
                    out.append(Send(stream.request.client, _tokens_notice(stream, instruction)))
            case Finish(stream_id=stream_id, reason=reason):
                if (stream := data.requests.streams.get(stream_id)) is not None:
                    outcome = "cancelled" if reason == "cancelled" else "done"
                    data.requests.end_stream(stream, outcome, now)
                    logger.info("stream %d finished: %s", stream_id, reason)
                    out.append(Send(stream.request.client, _finished_notice(stream, instruction)))
            case Abort(stream_id=stream_id, error=error, code=code):
                if (stream := data.requests.streams.get(stream_id)) is not None:
                    out += fail(data, stream.request, code, error, now)
    return out


def _tokens_notice(stream: RequestStream, emit: Emit) -> TokensNotice:
    number, index = stream.request.request_id, stream.spec.sampling.choice
    return copied_from(emit, TokensNotice, request_id=number, choice=index)


def _finished_notice(stream: RequestStream, finish: Finish) -> FinishedNotice:
    wire = copied_from(
        finish.figures,
        StreamFigures,
        draft_wire_bytes=stream.draft_bytes,
        target_wire_bytes=stream.target_bytes,
        plain_reason=finish.plain_reason[:_MAX_PLAIN_REASON],
    )
    number, index = stream.request.request_id, stream.spec.sampling.choice
    return FinishedNotice(number, index, stream.num_tokens, finish.reason, wire)


# -- places ----------------------------------------------------------------------------------------


def admit(data: Data, now: float) -> list[Send]:
    """Place waiting streams while there is room."""
    out: list[Send] = []
    while (found := placing.next_placed(data, now)) is not None:
        stream, target = found
        request = stream.request
        journal = data.requests.place(stream, target, now)
        # A request that lost its target before any output may begin again with another class.
        if request.announced_class != target.profile.numerics_class:
            request.announced_class = target.profile.numerics_class
            out.append(Send(request.client, _started_notice(data, stream, target, now)))
        out += _open(data, stream, target, journal, now)
    return out


def _started_notice(
    data: Data, stream: RequestStream, target: TargetRecord, now: float
) -> StartedNotice:
    request, profile = stream.request, target.profile
    assert isinstance(request.phase, Serving)
    drafts = [node.profile for node in data.roster.drafts()]
    return StartedNotice(
        request_id=request.request_id,
        seed=request.seed,
        num_prompt_tokens=stream.spec.num_prompt_tokens,
        exact=profile.exact,
        target=profile.model,
        draft=", ".join(draft.model for draft in drafts)[:_MAX_DRAFT_NAMES],
        emulated=any(each.emulated for each in (profile, *drafts)),
        numerics_class=profile.numerics_class,
        model_hash=profile.model_hash,
        prompt_hash=request.phase.prompt_hash,
        limit_s=min(MAX_DEADLINE_S, max(0.0, request.ends_at - now)),
    )


def _open(
    data: Data, stream: RequestStream, target: TargetRecord, journal: Stream | None, now: float
) -> list[Send]:
    """Open a stream on its new target, from its journal if it had another one before."""
    scheduler, spec = target.scheduler, stream.spec
    target.texts.note(spec.owner, spec.token_ids if journal is None else journal.token_ids)
    opened = scheduler.admit(stream.spec) if journal is None else scheduler.adopt(journal)
    proof = [Send(target.peer, Ping(PROOF, 0))] if stream.suspicion is not None else []
    return [*proof, *deliver(data, target, opened, now)]


def move(data: Data, stream: RequestStream, now: float) -> list[Send]:
    """Close a stream on its target and open it from its journal on another one that has room; does
    nothing if there is none."""
    source, target = stream.target, placing.elsewhere(data, stream, now)
    if source is None or target is None:
        return []
    journal, released = source.scheduler.release(stream.stream_id)
    data.requests.move(stream, target, now)
    return [*deliver(data, source, released, now), *_open(data, stream, target, journal, now)]


# -- ends ------------------------------------------------------------------------------------------


def fail(data: Data, request: Request, code: str, reason: str, now: float) -> list[Send]:
    """End a request that is not over with an error, and close its streams."""
    if request.is_over:
        return []
    _remember(data, request, now)
    out: list[Send] = []
    for stream in request.streams.values():
        if (target := stream.target) is not None:
            # The client gets the error and not the end of each stream.
            out += deliver(data, target, target.scheduler.close(stream.stream_id), now)
    data.requests.end(request, code, now)
    notice = RequestFailedNotice(request.request_id, code, reason[:_MAX_REASON])
    return [*out, Send(request.client, notice)]


def cancel(data: Data, request: Request, now: float) -> list[Send]:
    """End a request as its client wants; it receives the end of each stream that has a place."""
    _remember(data, request, now)
    out: list[Send] = []
    for stream in list(request.streams.values()):
        if (target := stream.target) is not None:
            out += deliver(data, target, target.scheduler.cancel(stream.stream_id), now)
    if not request.is_over:
        data.requests.end(request, "cancelled", now)
    return out


def _remember(data: Data, request: Request, now: float) -> None:
    """Remember of a request that ends early which deaths of targets it may cause.

    It may be submitted again. A suspicion with which it began, and to which nothing was added, is
    as old as it was: otherwise it would last for as long as clients retry.
    """
    known = 0 if request.suspicion is None else len(request.suspicion.accused_by)
    found = [s.suspicion for s in request.streams.values() if s.suspicion is not None]
    if added := [each for each in found if len(each.accused_by) > known]:
        worst = max(added, key=lambda each: (each.is_proven, len(each.accused_by)))
        data.remembered.note(request.digest, worst, now)
    for stream in request.streams.values():
        if isinstance(stream.phase, Placed) and stream.phase.is_new:
            data.remembered.cancelled(request.digest, stream.phase.target.name, now)


# -- targets that leave and come back --------------------------------------------------------------


def target_out(
    data: Data, target: TargetRecord, reason: str, *, has_died: bool, now: float
) -> list[Send]:
    """Have the streams and texts of a target that is out wait for other targets."""
    data.classes.left(target, reason, now)
    process = target.name, target.member.incarnation
    if has_died:
        data.remembered.target_died(process, now)
    journals, instructions = target.scheduler.release_all()
    out = deliver(data, target, instructions, now)
    streams = [data.requests.streams[journal.spec.stream_id] for journal in journals]
    for stream, journal in zip(streams, journals, strict=True):
        phase, suspicion = stream.phase, stream.suspicion
        assert isinstance(phase, Placed)
        if has_died:
            has_heard = target.proved_at > phase.opened_at
            stream.suspicion = accused(
                suspicion, process, is_new=phase.is_new, has_heard=has_heard, now=now
            )
        # Settling finds out which targets may serve it.
        data.requests.wait(stream, frozenset(), now, journal)
    texts = data.requests.texts_of(target)
    for request in texts:
        data.requests.lose_reader(request, now)
    data.requests.texts.target_out(target)
    for request in dict.fromkeys([*(stream.request for stream in streams), *texts]):
        request.unbind()
        request.num_losses += 1
        request.last_loss = f"target {target.name} left: {reason}"
        if (spent := request.spent_suspicion) is not None:
            request.last_loss = (
                f"the targets {spent.names} were lost while they read this request, perhaps "
                "because of it: it is tried on no other"
            )
    return out


def target_lives(data: Data, process: Process, now: float) -> list[Send]:
    """Take it that a process lives, because it has asked to join: it did not die of a request, but
    the process before it did. Ends requests of which that is the proof."""
    data.remembered.target_lives(process)
    requests = data.requests
    for stream in requests.streams.values():
        known = stream.suspicion
        if known is not None and (left := known.without(process)) is not known:
            requests.suspect(stream, left, now)
    convicted = dict[Request, Suspicion]()
    for stream in requests.lines:
        suspicion = stream.suspicion
        if suspicion is not None and suspicion.is_confirmed_by(process):
            suspicion.is_proven = True
            convicted[stream.request] = suspicion
    # What was lost together with a culprit has an explanation.
    explained = {each for suspicion in convicted.values() for each in suspicion.accused_by}
    for stream in requests.streams.values() if explained else ():
        known = stream.suspicion
        if known is not None and known.last in explained and stream.request not in convicted:
            requests.suspect(stream, None, now)
    out: list[Send] = []
    for request, suspicion in convicted.items():
        why = f"this request ended the targets {suspicion.names}: it is not tried again"
        out += fail(data, request, "internal", why, now)
    return out


# -- messages of targets ---------------------------------------------------------------------------


def committed(data: Data, sender: Sender, reply: CommitReply, now: float) -> list[Send]:
    target = sender.target
    data.requests.count_bytes(reply, sender.num_bytes, to_draft=False)
    target.busy_s += reply.pass_s + reply.turn_s
    out: list[Send] = []
    for stream in filter(None, map(data.requests.streams.get, streams_of(reply))):
        if stream.target is target and stream.request.awaits_scores:
            # Scores precede tokens. With this code the client submits again what was lost.
            out += fail(data, stream.request, "left", SCORES_LOST, now)
    before = data.tracing.streams_before(target)
    instructions = target.scheduler.committed(reply, now)
    data.tracing.committed(target, before, reply, now)
    return [*out, *deliver(data, target, instructions, now)]


def scored(data: Data, sender: Sender, notice: PromptScoresNotice, now: float) -> list[Send]:
    """Pass prompt scores on to the client."""
    target = sender.target
    stream_id = StreamId(notice.stream_id)
    stream, journal = data.requests.streams.get(stream_id), target.streams.get(stream_id)
    is_current = journal is not None and journal.spec.generation == notice.generation
    # Scores of other choices were not requested.
    if stream is None or not is_current or not stream.spec.scores_prompt:
        data.reporting.num_stale += 1
        return []
    request = stream.request
    try:
        fresh = request.scored(notice)
    except ValueError as error:
        # With this code the client submits again what was lost.
        return fail(data, request, "left", str(error), now)
    if fresh is None:
        return []
    for other in request.streams.values() if not request.awaits_scores else ():
        if isinstance(other.phase, AwaitsScores):
            data.requests.wait(other, placing.kinds_for(data, other, now), now)
    return [Send(request.client, fresh)]


def ready(data: Data, sender: Sender, notice: StreamReadyNotice, now: float) -> list[Send]:
    target = sender.target
    stream_id, generation = StreamId(notice.stream_id), notice.generation
    out = target.scheduler.target_ready(
        stream_id, generation, notice.num_read, has_begun=notice.has_begun
    )
    return deliver(data, target, out, now)


def failed(data: Data, sender: Sender, notice: StreamFailedNotice, now: float) -> list[Send]:
    target = sender.target
    code = notice.code if notice.code in _CODES_OF_TARGETS else "unavailable"
    stream_id, generation = StreamId(notice.stream_id), notice.generation
    out = target.scheduler.target_failed(stream_id, generation, notice.reason, code)
    return deliver(data, target, out, now)


def parked(data: Data, sender: Sender, notice: StreamParkedNotice, now: float) -> list[Send]:
    target = sender.target
    out = target.scheduler.target_parked(StreamId(notice.stream_id), notice.generation)
    return deliver(data, target, out, now)


def draft_inside(_: Data, sender: Sender, notice: DraftInsideNotice, __: float) -> list[Send]:
    target = sender.target
    target.scheduler.inside, target.draft_why = notice.model, notice.why
    return []
