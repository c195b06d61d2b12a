"""Accepts or refuses submitted requests, and sets their owner, limits and model."""

from __future__ import annotations

import hashlib
import math

from mesh.latest import Latest
from nodes.config.settings import LimitSettings
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import Roster
from nodes.coordinator.placing.choosing import hashes_in_order, is_of_kind, shown_ids
from nodes.coordinator.requests.request import (
    BadRequestError,
    RefusedRequestError,
    Request,
    new_request,
)
from nodes.coordinator.sends import Send
from nodes.coordinator.serving import Serving
from nodes.messages import EMBEDDING, EngineProfile, RequestFailedNotice, SubmitRequest
from nodes.messages.access import GATEWAY
from nodes.messages.fingerprint import fingerprint
from nodes.worker.stream import OWNER_MARK, tenant_of

# Whoever has a key chooses the names of its users, but not those of other keys.
_USER_BYTES, _KEY_BYTES = 16, 8
_MOST_MODELS = 64
# The share of the waiting streams that one key of a gateway may have, and the share that is kept
# for whoever has none waiting yet.
_SHARE_OF_KEY = _SHARE_OF_NEWCOMERS = 1 / 4


def owner_of(sender: str, role: str, user: str) -> str:
    """Return the name under which a request shares prefixes: its tenant and its user.

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


class Intake:
    """Accepts requests within limits."""

    def __init__(self, roster: Roster, serving: Serving, limits: LimitSettings) -> None:
        self._roster = roster
        self._serving = serving
        self._limits = limits
        # The models of targets since the coordinator started, by name and hash.
        self._models = Latest[tuple[str, str], EngineProfile](_MOST_MODELS)

    def target_came(self, target: NodeRecord, now: float) -> None:
        profile = target.profile
        self._models[profile.model, profile.model_hash] = profile
        self._serving.choosing.target_came(now)

    def submit(
        self, client: bytes, role: str, sender: str, submit: SubmitRequest, now: float
    ) -> list[Send]:
        """Accept or refuse a request, and return the messages to send.

        role: the role the client joined in. sender: the name of its key, or its connection.
        """
        try:
            request, target = self._checked(client, role, sender, submit, now)
        except RefusedRequestError as error:
            self._serving.ledger.outcomes[error.code] += 1
            return [Send(client, RequestFailedNotice(submit.request_id, error.code, str(error)))]
        self._serving.ledger.take_in(request)
        if target is None:
            self._serving.wait_for_return(request, now)
            return []
        return self._begin(request, target, now)

    def _begin(self, request: Request, target: NodeRecord, now: float) -> list[Send]:
        if not request.needs_reading:
            return self._serving.make_streams(request, target, request.prompt, now)
        self._serving.ledger.tokenizing.add(request, target.name)
        return self.ask_tokenizers()

    def take_up(self, now: float) -> list[Send]:
        """Begin requests that waited for a target and have one now."""
        out: list[Send] = []
        tokenizing, reader_of = self._serving.ledger.tokenizing, self._serving.reader_of
        read = [request for request, _ in tokenizing if not request.needs_reading]
        for request, target in [(request, reader_of(request, now)) for request in read]:
            if target is not None:
                tokenizing.drop(request)
                out += self._begin(request, target, now)
        return out + self.ask_tokenizers()

    def _checked(
        self, client: bytes, role: str, sender: str, submit: SubmitRequest, now: float
    ) -> tuple[Request, NodeRecord | None]:
        """Return the request and the target that tokenizes it; None if it must wait for one.

        Raises RefusedRequestError.
        """
        serving, limits = self._serving, self._limits
        if serving.ledger.request(client, submit.request_id) is not None:
            raise BadRequestError(f"request id {submit.request_id} is in use")
        is_gateway = role == GATEWAY
        num_waiting = serving.ledger.waits.num_of(role)
        max_waiting = limits.max_gateway_waiting if is_gateway else limits.max_waiting
        if submit.num_choices > max_waiting:
            reason = f"at most {max_waiting} streams may wait: ask for fewer choices"
            raise RefusedRequestError("overloaded", reason)
        owner = owner_of(sender, role, submit.user)
        # Otherwise one key could keep all others out.
        if num_own := serving.ledger.waits.num_of_tenant(tenant_of(owner)):
            if is_gateway and num_own + submit.num_choices > _SHARE_OF_KEY * max_waiting:
                reason = f"{num_own} streams of this key are waiting already: try later"
                raise RefusedRequestError("overloaded", reason)
            max_waiting -= int(_SHARE_OF_NEWCOMERS * max_waiting)
        if num_waiting + submit.num_choices > max_waiting:
            reason = f"{num_waiting} streams are waiting already: try later"
            raise RefusedRequestError("overloaded", reason)
        max_requests = limits.max_gateway_requests if is_gateway else limits.max_requests
        if len(serving.ledger.of_client(client)) >= max_requests:
            raise RefusedRequestError(
                "overloaded", f"{max_requests} requests of this {role} are under way"
            )
        request = new_request(client, submit)
        request.arrived_at, request.role = now, role
        request.limit_s = min(submit.deadline_s or math.inf, limits.max_request_s)
        request.ends_at = now + request.limit_s
        # Users are no tenants, because whoever has a key can invent them.
        request.owner, request.tenant = owner, tenant_of(owner)
        request.suspicion = known = serving.remembered.found(request.digest, now)
        if known is not None and known.is_proven:
            why = f"the same request ended the targets {known.names} before"
            raise BadRequestError(f"{why}: it is refused for now")
        if known is not None and known.is_spent:
            why = f"the targets {known.names} were lost while they read the same request"
            raise RefusedRequestError("unavailable", f"{why}: try again in a minute")
        if full := serving.ledger.holdings.what_is_full(request):
            raise RefusedRequestError("overloaded", f"{full}: try later")
        return request, self._target_for(request, now)

    def _target_for(self, request: Request, now: float) -> NodeRecord | None:
        serving = self._serving
        model, target = request.submit.model, serving.reader_of(request, now)
        # A resumed request waits, because after a restart of the coordinator nodes still rejoin.
        if target is not None or request.is_resumed or serving.choosing.expects_for(request, now):
            return target
        targets = self._roster.nodes("target")
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
            raise RefusedRequestError("unavailable", "no target node is in the mesh: start one")
        if all(target.is_draining for target in targets):
            raise RefusedRequestError(
                "unavailable", "all target nodes are draining: start another one, or undrain one"
            )
        known = bool(model and hashes_in_order(list(self._models.values()), model))
        if request.is_pinned and (known or not model):
            raise self._not_pinned(request, targets)
        if known:
            raise RefusedRequestError(
                "unavailable", f"no target of model {model!r} is present: try later"
            )
        names = ", ".join(shown_ids([n.profile for n in targets]))
        reason = f"no target has model {model!r}; present models: {names}"
        raise RefusedRequestError("not_found", reason)

    def _not_pinned(self, request: Request, targets: list[NodeRecord]) -> RefusedRequestError:
        """Return the error for a model and class that no present target has."""
        wanted = fingerprint(request.model_hash, request.numerics_class)
        if any(
            is_of_kind(target.profile, request) and not target.is_draining for target in targets
        ):
            model = request.submit.model
            reason = f"fingerprint {wanted} does not belong to model {model!r}: omit one of them"
            return BadRequestError(reason)
        return RefusedRequestError(
            "unavailable", f"no target with fingerprint {wanted} is present: try later"
        )

    def ask_tokenizers(self) -> list[Send]:
        """Return the texts that may be sent to targets for tokenization now."""
        out = []
        for name, question in self._serving.ledger.tokenizing.due():
            target = self._roster.node(name)
            if target is not None:
                out.append(Send(target.peer, question))
        return out
