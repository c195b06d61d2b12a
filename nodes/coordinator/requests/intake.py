"""Takes requests in, from a submission or its first piece until they are streams."""

from __future__ import annotations

import hashlib
import math
from copy import deepcopy
from typing import Final

from airdraft.mesh.codec import decode
from airdraft.mesh.json_form import copied_from
from airdraft.nodes.coordinator.data import Data, Sender
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.members.roster import MAX_MODEL_CHARS
from airdraft.nodes.coordinator.requests import placing, running
from airdraft.nodes.coordinator.requests.classes import (
    STRANDED_LIMIT_S,
    fits_request,
    hashes_in_order,
    shown_ids,
)
from airdraft.nodes.coordinator.requests.request import Asked, Queued, Request
from airdraft.nodes.coordinator.requests.submission import (
    BadRequestError,
    RefusedRequestError,
    new_request,
    prompt_hash,
    specs_of,
)
from airdraft.nodes.coordinator.requests.texts import MOST_ASKED
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    EMBEDDING,
    CancelRequest,
    ReadNotice,
    RequestFailedNotice,
    SubmitRequest,
    TokenizeReply,
    TokenizeRequest,
    UploadOffer,
    UploadPiece,
)
from airdraft.nodes.messages.access import GATEWAY, ForbiddenError
from airdraft.nodes.messages.fingerprint import fingerprint
from airdraft.nodes.worker.stream import OWNER_MARK, tenant_of

# Whoever has a key chooses the names of its users, but not those of other keys.
_USER_BYTES: Final = 16
_KEY_BYTES: Final = 8
# What a number of JSON holds exactly.
_MOST_SEEDS: Final = 1 << 53
# The share of the waiting streams that one key of a gateway may have, and the share that is kept
# for whoever has none waiting yet.
_SHARE_OF_KEY: Final = 1 / 4
_SHARE_OF_NEWCOMERS: Final = 1 / 4


def owner_of(sender: str, role: str, user: str) -> str:
    """Returns the name under which a request shares prefixes: its tenant and its user.

    The tenant is the sender, or an API key of a gateway, which sends KEY/USER. What follows the
    sender is hashed, because nodes do not need it. Users of different tenants are different.
    """
    tenant, person = sender, user
    if role == GATEWAY:
        key, _, person = user.partition("/")
        tenant = f"{sender}/{_digest(key, _KEY_BYTES)}" if key else sender
    return f"{tenant}{OWNER_MARK}{_digest(person, _USER_BYTES)}" if person else tenant


def _digest(text: str, num_bytes: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=num_bytes).hexdigest()


# -- submissions -----------------------------------------------------------------------------------


def submitted(data: Data, sender: Sender, submit: SubmitRequest, now: float) -> list[Send]:
    """Accept or refuse a request, and return the messages to send."""
    data.uploads.forget(sender.peer, submit.request_id)
    data.reporting.num_submitted += 1
    try:
        request, target = _checked(data, sender, submit, now)
    except RefusedRequestError as error:
        data.requests.outcomes[error.code] += 1
        notice = RequestFailedNotice(submit.request_id, error.code, str(error))
        return [Send(sender.peer, notice)]
    if target is not None:
        return _begin(data, request, target, now)
    request.last_loss = "the target of this request has left"
    if request.is_resumed:
        request.last_loss = "no present target can continue this request"
    elif request.is_pinned:
        wanted = fingerprint(request.model_hash, request.numerics_class)
        request.last_loss = f"no target with fingerprint {wanted} is present"
    data.requests.lose_reader(request, now)
    return []


def offered(data: Data, sender: Sender, offer: UploadOffer, now: float) -> list[Send]:
    return data.uploads.offered(sender.peer, offer, now)


def uploaded(data: Data, sender: Sender, piece: UploadPiece, now: float) -> list[Send]:
    """Take a piece of a large request.

    Raises DecodeError or ForbiddenError if the whole is no request.
    """
    frames, is_known = data.uploads.arrived(sender.peer, piece, now)
    data.reporting.num_stale += not is_known
    if frames is None:
        return data.uploads.grants(now)
    # If this raises, the next tick grants the medium that is free now, so others do not wait.
    whole = decode(frames)
    if not isinstance(whole.message, SubmitRequest):
        kind = type(whole.message).__name__
        raise ForbiddenError(f"only requests may be uploaded, not {kind}")
    if whole.message.request_id != piece.request_id:
        raise ForbiddenError("an upload has another request id than its offer")
    return [*data.uploads.grants(now), *submitted(data, sender, whole.message, now)]


def cancelled(data: Data, sender: Sender, message: CancelRequest, now: float) -> list[Send]:
    data.uploads.forget(sender.peer, message.request_id)
    request = data.requests.request(sender.peer, message.request_id)
    return [] if request is None else running.cancel(data, request, now)


def _checked(
    data: Data, sender: Sender, submit: SubmitRequest, now: float
) -> tuple[Request, TargetRecord | None]:
    """Returns the request and the target that tokenizes it; None if it must wait for one.

    Raises RefusedRequestError.
    """
    requests, limits, client, role = data.requests, data.limits, sender.peer, sender.role
    quota = requests.quota
    if requests.request(client, submit.request_id) is not None:
        raise BadRequestError(f"request id {submit.request_id} is in use")
    is_gateway = role == GATEWAY
    num_waiting = quota.num_waiting(role)
    max_waiting = limits.max_gateway_waiting if is_gateway else limits.max_waiting
    if submit.num_choices > max_waiting:
        reason = f"at most {max_waiting} streams may wait: ask for fewer choices"
        raise RefusedRequestError("overloaded", reason)
    owner = owner_of(sender.name, role, submit.user)
    # Otherwise one key could keep all others out.
    if num_own := quota.num_waiting_of(tenant_of(owner)):
        if is_gateway and num_own + submit.num_choices > _SHARE_OF_KEY * max_waiting:
            reason = f"{num_own} streams of this key are waiting already: try later"
            raise RefusedRequestError("overloaded", reason)
        max_waiting -= int(_SHARE_OF_NEWCOMERS * max_waiting)
    if num_waiting + submit.num_choices > max_waiting:
        reason = f"{num_waiting} streams are waiting already: try later"
        raise RefusedRequestError("overloaded", reason)
    max_requests = limits.max_gateway_requests if is_gateway else limits.max_requests
    if len(requests.of_client(client)) >= max_requests:
        raise RefusedRequestError(
            "overloaded", f"{max_requests} requests of this {role} are under way"
        )
    request = new_request(client, submit, _draw_seed(data))
    request.arrived_at, request.role = now, role
    request.limit_s = min(submit.deadline_s or math.inf, limits.max_request_s)
    request.ends_at = now + request.limit_s
    # Users are no tenants, because whoever has a key can invent them.
    request.owner, request.tenant = owner, tenant_of(owner)
    request.suspicion = known = data.remembered.found(request.digest, now)
    if known is not None and known.is_proven:
        why = f"the same request ended the targets {known.names} before"
        raise BadRequestError(f"{why}: it is refused for now")
    if known is not None and known.is_spent:
        why = f"the targets {known.names} were lost while they read the same request"
        raise RefusedRequestError("unavailable", f"{why}: try again in a minute")
    if full := quota.what_is_full(request):
        raise RefusedRequestError("overloaded", f"{full}: try later")
    return request, _target_for(data, request, now)


def _draw_seed(data: Data) -> int:
    """Returns a seed that nobody can predict, another one for each submission."""
    number = str(data.reporting.num_submitted).encode()
    digest = hashlib.blake2b(number, key=data.secret, digest_size=8).digest()
    return int.from_bytes(digest) % _MOST_SEEDS


def _target_for(data: Data, request: Request, now: float) -> TargetRecord | None:
    """Returns the target that reads a request; None if the request must wait for one.

    Raises RefusedRequestError.
    """
    model = request.submit.model
    target = data.classes.reader_of(request, data.requests.texts, now)
    # A resumed request waits, because after a restart of the coordinator nodes still rejoin.
    if target is not None or request.is_resumed or data.classes.expects_for(request, now):
        return target
    targets = data.roster.targets()
    wants_embedding = request.submit.wants == EMBEDDING
    profiles = [target.profile for target in targets]
    meant = hashes_in_order(profiles, model)[:1] if model else []
    if any(p.model_hash in meant and p.traits.embeds != wants_embedding for p in profiles):
        makes = "text and no embeddings" if wants_embedding else "embeddings and no text"
        raise BadRequestError(f"model {model!r} produces {makes}")
    if not any(target.profile.traits.embeds == wants_embedding for target in targets):
        if targets and wants_embedding:
            reason = "no target serves an embedding model: start one"
            raise RefusedRequestError("not_found", reason)
        targets = []
    if not targets:
        reason = "no target node is in the mesh: start one"
        if missed := data.stages.missed(now):
            reason = f"the target waits for a part of its model: start stage {', '.join(missed)}"
        raise RefusedRequestError("unavailable", reason)
    if all(target.is_draining for target in targets):
        raise RefusedRequestError(
            "unavailable", "all target nodes are draining: start another one, or undrain one"
        )
    known = bool(model) and data.classes.has_seen(model)
    if request.is_pinned and (known or not model):
        raise _not_pinned(request, targets)
    if known:
        raise RefusedRequestError(
            "unavailable", f"no target of model {model!r} is present: try later"
        )
    names = ", ".join(shown_ids([n.profile for n in targets]))
    reason = f"no target has model {model!r}; present models: {names}"
    raise RefusedRequestError("not_found", reason)


def _not_pinned(request: Request, targets: list[TargetRecord]) -> RefusedRequestError:
    """Returns the error for a model and class that no present target has."""
    wanted = fingerprint(request.model_hash, request.numerics_class)
    if any(fits_request(target.profile, request) and not target.is_draining for target in targets):
        model = request.submit.model
        reason = f"fingerprint {wanted} does not belong to model {model!r}: omit one of them"
        return BadRequestError(reason)
    return RefusedRequestError(
        "unavailable", f"no target with fingerprint {wanted} is present: try later"
    )


# -- from a text to streams ------------------------------------------------------------------------


def _begin(data: Data, request: Request, target: TargetRecord, now: float) -> list[Send]:
    """Begin a request for which there is a target now."""
    if not request.needs_reading:
        return _become_streams(data, request, target, request.prompt, now)
    data.requests.queue(request, target, now)
    return []


def ask(data: Data, now: float) -> list[Send]:
    """Returns the texts that may be sent to targets for tokenization now."""
    out: list[Send] = []
    for request in data.requests.ask(now):
        phase, submit = request.phase, request.submit
        assert isinstance(phase, Asked)
        ids = submit.prompt_token_ids if submit.wants else ()
        known = {"request_id": phase.number, "token_ids": ids}
        out.append(Send(phase.target.peer, copied_from(submit, TokenizeRequest, **known)))
    return out


def tokenized(data: Data, sender: Sender, reply: TokenizeReply, now: float) -> list[Send]:
    target = sender.target
    data.requests.texts.answered(target, reply.request_id)
    request = data.requests.with_text(reply.request_id)
    phase = None if request is None else request.phase
    if request is None or not isinstance(phase, Queued | Asked) or phase.target is not target:
        data.reporting.num_stale += 1
        return []
    if reply.error:
        return running.fail(data, request, "bad_request", reply.error, now)
    if not request.submit.wants:
        return _become_streams(data, request, target, reply.prompt_token_ids, now)
    data.requests.end(request, "done", now)
    notice = copied_from(
        reply,
        ReadNotice,
        request_id=request.request_id,
        model=target.profile.model[:MAX_MODEL_CHARS],
        model_hash=target.profile.model_hash,
    )
    return [Send(request.client, notice)]


def _become_streams(
    data: Data, request: Request, target: TargetRecord, prompt: tuple[int, ...], now: float
) -> list[Send]:
    """Make the streams of a request whose token ids are known; they wait for places."""
    digest = prompt_hash(prompt)
    try:
        profile = placing.profile_to_fit(data, request, target, len(prompt))
        specs = specs_of(request, data.requests.next_id, prompt, profile)
    except BadRequestError as error:
        return running.fail(data, request, "bad_request", str(error), now)
    if request.submit.prompt_hash not in ("", digest):
        reason = "the prompt has other token ids than when the request began: submit it again"
        return running.fail(data, request, "internal", reason, now)
    request.model_hash = target.profile.model_hash
    for stream in data.requests.serve(request, specs, prompt, digest, now):
        # Each has its own copy, because its own tokens clear it.
        stream.suspicion = deepcopy(request.suspicion)
        # The client gets the scores of the prompt before any token of any choice.
        if request.awaits_scores and not stream.spec.scores_prompt:
            data.requests.await_scores(stream, now)
        else:
            data.requests.wait(stream, placing.kinds_for(data, stream, now), now)
    return []


# -- time ------------------------------------------------------------------------------------------


def targets_changed(data: Data, now: float) -> list[Send]:
    """Begin requests that have a reader now, and find out which targets may serve each waiting
    stream."""
    out: list[Send] = []
    for request in data.requests.without_reader():
        target = data.classes.reader_of(request, data.requests.texts, now)
        if target is not None:
            out += _begin(data, request, target, now)
    for stream in data.requests.lines:
        data.requests.change_kinds(stream, placing.kinds_for(data, stream, now), now)
    return out


def tick(data: Data, now: float) -> list[Send]:
    """Fail requests past their deadline and those that have waited too long for a target, and queue
    texts elsewhere that were not answered."""
    out: list[Send] = []
    for request in data.requests.overdue(now):
        late = f"the request was not done within its {round(request.limit_s, 2):g} s"
        out += running.fail(data, request, "deadline", late, now)
    unread = "no target has tokenized the text of this request after several attempts"
    for silent in data.requests.texts.newly_silent(now):
        for request in data.requests.texts_of(silent):
            phase = request.phase
            assert isinstance(phase, Queued | Asked)
            if data.requests.texts.has_slot(phase.number):
                continue
            if isinstance(phase, Asked) and phase.num_asked >= MOST_ASKED:
                out += running.fail(data, request, "unavailable", unread, now)
            else:
                target = data.classes.reader_of(request, data.requests.texts, now)
                data.requests.queue(request, target or phase.target, now)
    for request in data.requests.given_up(now):
        out += running.fail(data, request, "unavailable", _loss_of(data, request), now)
    data.requests.begin_trials(now)
    return out


def _loss_of(data: Data, request: Request) -> str:
    """Returns why a request is given up that no target could serve."""
    loss, targets = request.last_loss, data.roster.targets()
    draining = any(n.is_draining and fits_request(n.profile, request) for n in targets)
    if draining and not request.num_losses:
        loss = "all targets that could serve this request are draining"
    return f"{loss}; no other suitable target joined within {STRANDED_LIMIT_S:.0f} s"
