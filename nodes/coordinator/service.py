"""The coordinator's shell: it connects a socket and a clock to the pure state."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import math
import secrets
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from airdraft.mesh.authorized import AuthorizedNodes
from airdraft.mesh.codec import Envelope, decode, encode, is_asking
from airdraft.mesh.credits import Credits
from airdraft.mesh.endpoints import ipc_path
from airdraft.mesh.errors import (
    BackpressureError,
    DecodeError,
    LocalProtocolError,
    PeerGoneError,
    VersionError,
)
from airdraft.mesh.messages import (
    OTHER_PROTOCOL,
    PROTOCOL_VERSION,
    Bye,
    Credit,
    EnrolRequest,
    Hello,
    Refuse,
    Welcome,
)
from airdraft.mesh.padding import join, pad
from airdraft.mesh.pauses import PauseState
from airdraft.mesh.transport import Received, ServerTransport
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.coordinator.members.authentication import Authentication
from airdraft.nodes.coordinator.members.rate_limits import RateLimits, cost_of, work_of
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.coordinator.sends import Send, coalesced
from airdraft.nodes.coordinator.state import CoordinatorState
from airdraft.nodes.messages import (
    NodesReply,
    OutputNotice,
    StagesRequest,
    StatusReply,
    TraceReply,
    notices_of,
)
from airdraft.nodes.messages.access import NODE_ROLES, Caller, ForbiddenError
from airdraft.nodes.scheduler.planning import MODES, Mode, PlanInput, PlanResult
from airdraft.policies.plan import Plan

logger = logging.getLogger(__name__)

_TICK_S = 0.05
_MIN_TICK_S = 0.001
# Delays of the Pings after a connection seems to have closed: messages that arrived over it are
# read first, and ZeroMQ may report the closing a moment before it refuses to send there.
_PROBES_AFTER_S = (0.01, 0.05)
# Turns of the event loop after which it has noticed a readable socket and the reader has read it.
_TURNS_TO_READ = 3
_MAX_ENROLLING = 8
_SECRET_BYTES = 32
# Seconds after which the thread that plans lets go of the interpreter if a message waits for it.
# With Python's 5 ms the p99 of a Ping beside 64 streams was 2.1 to 3.8 ms, with this 1.4 to 2.1 ms.
_SWITCH_S = 0.0005
# Replies, some of them large, that every member may request repeatedly.
_ANSWERS = (NodesReply, StatusReply, TraceReply)
_MAX_LEFT_PEERS = 64
# Different errors of planning that are logged with a traceback; later ones are not logged.
_MAX_LOGGED = 16
_DEFAULTS = CoordinatorConfig()


def with_fallback() -> Callable[[PlanInput], PlanResult]:
    """Returns a function that makes plans and, where that fails, returns a plan without guesses.

    A fault then costs only speed. Guesses never change a text, so a failed plan must not end the
    streams of a whole mesh.
    """
    logged: set[str] = set()

    def made(planning: PlanInput) -> PlanResult:
        try:
            return planning.make()
        except Exception as error:
            streams = planning.observation.streams
            what = f"{type(error).__name__}: {error}"
            if what not in logged and len(logged) < _MAX_LOGGED:
                logged.add(what)
                logger.exception("no plan could be made for %d streams: %s", len(streams), what)
            plain = tuple(view.stream_id for view in streams)
            return PlanResult(planning.observation, Plan(plain=plain), math.inf, 0.0)

    return made


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _version() -> str:
    try:
        return importlib.metadata.version("airdraft")
    except importlib.metadata.PackageNotFoundError:
        return ""


class Coordinator:
    """Serves nodes and clients on one endpoint until cancelled."""

    def __init__(
        self,
        transport: ServerTransport,
        config: CoordinatorConfig = _DEFAULTS,
        *,
        authorized: Callable[[], AuthorizedNodes] | None = None,
        clock: Callable[[], float] | None = None,
        mode: Mode | None = None,
    ) -> None:
        """authorized: opens the files of authorized keys; None where links need no keys. clock:
        seconds; the event loop's by default. mode: how streams are planned, not as `config` says.
        """
        self._clock = clock or _loop_time
        self._pauses = PauseState()
        self._transport = transport
        self._authentication = Authentication(authorized)
        # Of the authorized keys, as targets know them.
        self._names: tuple[str, ...] = ()
        self._rate_limits = RateLimits()
        self._credits = Credits()
        self._enrolling: set[bytes] = set()
        self._plan_due = asyncio.Event()
        # Drawn at random, because a clock may be set back; epochs are only compared for equality.
        # Every message carries it, and four bytes distinguish starts well enough.
        epoch = 1 + secrets.randbits(31)
        times_s = config.heartbeat_interval_s, config.heartbeat_timeout_s
        self.state = CoordinatorState(
            mode or MODES[config.plan.policy],
            Welcome("", config.cluster, epoch, *times_s, config.pad_messages),
            secret=secrets.token_bytes(_SECRET_BYTES),
            lookup=config.prompt_lookup,
            limits=config.limits,
            version=_version(),
            is_private=authorized is None and ipc_path(transport.endpoint) is not None,
        )

    @property
    def endpoint(self) -> str:
        return self._transport.endpoint

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._read(group))
            group.create_task(self._keep_ticking())
            group.create_task(self._keep_planning())
            group.create_task(self._authentication.keep_expiring())

    async def _watch(self) -> None:
        """Ping members whose connections seem to have closed: sending fails if they are gone."""
        while True:
            suspects = await self._transport.lost_peers()
            for wait_s in _PROBES_AFTER_S:
                await asyncio.sleep(wait_s)
                self._send_all(self.state.roster.extra_pings(suspects, self._clock()))

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while True:
            self.take(await self._transport.recv(), group)

    def take(self, received: Received, group: asyncio.TaskGroup) -> None:
        """Handle one message. group: runs work that the message starts and that takes time."""
        peer, frames, key = received
        now = self._clock()
        role = self.state.roster.role_of(peer)
        if self._pauses.late_s(now, _TICK_S):
            # After a pause messages are read before the tick that accounts for it.
            self.state.roster.forget_pings(peer)
        if not self._rate_limits.count_message(peer, now, cost_of(role)):
            if role:
                self._ignore(peer, "it sends too many messages", now)
            return
        caller = self._authentication.caller(peer, key)
        if caller is None:
            # A membership ends at a tick, once it is certain that no editor is writing the file.
            self.state.reporting.num_dropped += 1
            return
        if not (role or caller.is_guest or is_asking(frames)):
            # It is not decoded, because that may take milliseconds.
            self.state.reporting.num_stale += 1
            return
        try:
            envelope = decode(frames)
            work = cost_of(role) * work_of(envelope.message)
            if work and not self._rate_limits.work.take((key or peer, role), work, now):
                if role == "draft":
                    # Guesses are dropped under pressure, and are no reason to lose a draft node.
                    self.state.reporting.num_dropped += 1
                    return
                self._rate_limits.ban(peer)
                self._ignore(peer, "reading its messages takes too long", now)
                return
            self._check_in(group, received, caller, envelope, now)
        except VersionError as error:
            self._other_version(peer, error, now)
        except (DecodeError, ForbiddenError) as error:
            self._offence(peer, str(error), now)

    def _check_in(
        self,
        group: asyncio.TaskGroup,
        received: Received,
        caller: Caller,
        envelope: Envelope,
        now: float,
    ) -> None:
        """Pass a message to the state. Raises ForbiddenError if its sender may not send it."""
        peer, frames, key = received
        message, num_bytes = envelope.message, sum(map(len, frames))
        if isinstance(message, EnrolRequest):
            if peer not in self._enrolling and len(self._enrolling) < _MAX_ENROLLING:
                self._enrolling.add(peer)
                group.create_task(self._enrol(peer, key, message))
            return
        if caller.is_guest:
            raise ForbiddenError(f"an invited key may not send {type(message).__name__}")
        if isinstance(message, StagesRequest):
            self._send_all(self.state.stages_asked(peer, key, caller, message, now))
            return
        if isinstance(message, Hello) and not self._may_join(peer, key, message.role, now):
            return
        if isinstance(message, Hello) and not self.state.roster.role_of(peer):
            # What a former membership of this connection has not read counts no longer.
            self._credits.close(peer)
        if isinstance(message, Credit):
            self._credits.grant(peer, message.num_messages)
        cluster, epoch = envelope.cluster, envelope.epoch
        self._send_all(self.state.on_message(peer, cluster, epoch, message, num_bytes, now, caller))

    def _may_join(self, peer: bytes, key: str, role: str, now: float) -> bool:
        roles = self.state.roster.roles()
        if peer not in roles and self._authentication.is_crowded(key, roles):
            self._send_all([Send(peer, Refuse("too many members use this key"))])
            return False
        # All clients of a machine come back at once, and its nodes must not wait for their turns.
        return self._rate_limits.joins.take((key or peer, role in NODE_ROLES), 1.0, now)

    def _other_version(self, peer: bytes, error: VersionError, now: float) -> None:
        """Refuse who asks to join in another protocol version, so that it can read the answer.

        The message counts as an offence.
        """
        if not error.is_asking or self.state.roster.role_of(peer):
            self._offence(peer, str(error), now)
            return
        reason = (
            f"protocol {error.version} differs from the coordinator's {PROTOCOL_VERSION}: "
            f"use one version of airdraft on all machines"
        )
        self._offence(peer, reason, now)
        with contextlib.suppress(PeerGoneError, BackpressureError):
            refusal = Refuse(reason, OTHER_PROTOCOL)
            self._transport.send(peer, encode(refusal, version=error.version))

    def _offence(self, peer: bytes, reason: str, now: float) -> None:
        self.state.reporting.num_dropped += 1
        self._rate_limits.offended(peer)
        if self._rate_limits.is_banned(peer):
            self._ignore(peer, reason, now)
        else:
            logger.warning("dropped a message of peer %s: %s", peer.hex(), reason)

    def _ignore(self, peer: bytes, reason: str, now: float) -> None:
        """End the membership of a peer that the rate limits have banned, and say so in the log."""
        member = self.state.roster.membership.by_peer(peer)
        who = f"{member.role} {member.node}" if member is not None else f"peer {peer.hex()}"
        logger.warning("messages of %s are ignored from now on: %s", who, reason)
        self._send_all(self.state.peer_gone(peer, now))

    async def _enrol(self, peer: bytes, key: str, request: EnrolRequest) -> None:
        try:
            reply = await asyncio.to_thread(self._authentication.enrol, key, request)
            self._send_all([Send(peer, reply)])
        finally:
            self._enrolling.discard(peer)

    async def _keep_ticking(self) -> None:
        while True:
            # Batches that are held back need a tick on the millisecond; heartbeats do not.
            deadline = self.state.next_deadline()
            wait_s = _TICK_S if deadline is None else deadline - self._clock()
            await asyncio.sleep(min(_TICK_S, max(_MIN_TICK_S, wait_s)))
            self.tick()

    async def _keep_planning(self) -> None:
        """Make due plans one after another, each after all messages received so far were read."""
        loop, make = asyncio.get_running_loop(), with_fallback()
        sys.setswitchinterval(_SWITCH_S)
        # The thread is used for plans alone, so that tasks waiting for files cannot delay them.
        with ThreadPoolExecutor(1, thread_name_prefix="plans") as thread:
            while True:
                await self._plan_due.wait()
                for _ in range(_TURNS_TO_READ):
                    await asyncio.sleep(0)
                due = self.state.begin_plan(self._clock())
                if due is not None:
                    # Messages are handled meanwhile: a plan for many streams takes milliseconds.
                    target, planning = due
                    made = await loop.run_in_executor(thread, make, planning)
                    self.take_plan(target, made)
                if not self.state.is_plan_due:
                    self._plan_due.clear()

    def take_plan(self, target: TargetRecord, made: PlanResult) -> None:
        """Put a plan in force and send the messages that it starts."""
        self._send_all(self.state.take_plan(target, made, self._clock()))

    def tick(self) -> None:
        """Do what is due at this time without any message."""
        now = self._clock()
        self._look_at_silence(self._pauses.looked(now, _TICK_S), now)
        roles = self.state.roster.roles()
        for peer in self._authentication.revoked(roles):
            self._send_all(self.state.revoked(peer, now))
        if self._authentication.names != self._names:
            self._names = self._authentication.names
            self._send_all(self.state.keys_known(self._names))
        if len(self._credits) > len(roles) + _MAX_LEFT_PEERS:
            self._credits.keep(roles)
        self._send_all(self.state.tick(now))

    def _look_at_silence(self, paused_s: float, now: float) -> None:
        membership = self.state.roster.membership
        if paused_s > 0.0:
            membership.paused(paused_s, now)
        for peer in membership.silent(now):
            quiet_s = self._transport.quiet_s(peer)
            if quiet_s is not None:
                membership.on_message(peer, now - quiet_s)

    def _send_all(self, sends: Sequence[Send]) -> None:
        """Send the messages, and those that follow from sending or from failing to send them.

        Then it wakes the planner if a plan is due: no token waits for a plan.
        """
        now = self._clock()
        # Nodes come first: they can start work, while clients only read.
        ordered = coalesced(sends)
        ordered.sort(key=lambda send: self.state.roster.role_of(send.peer) not in NODE_ROLES)
        pending = deque(ordered)
        while pending:
            send = pending.popleft()
            try:
                num_bytes = self._send(send)
            except LocalProtocolError as error:
                if isinstance(send.message, OutputNotice):
                    parts = [Send(send.peer, notice) for notice in notices_of(send.message)]
                    pending.extendleft(reversed(parts))
                    continue
                # A valid message of a peer may be too large to pass on: its requests end.
                pending += self.state.undeliverable(send, str(error), now)
            except (PeerGoneError, BackpressureError) as error:
                # A peer that cannot be reached, or does not read, counts as gone.
                logger.debug("peer %s: %s", send.peer.hex(), error)
                self._credits.close(send.peer)
                # Later messages would continue a text of which the peer has missed a part.
                pending = deque(other for other in pending if other.peer != send.peer)
                pending += self.state.peer_gone(send.peer, now)
            else:
                pending.extendleft(reversed(self.state.sent(send, num_bytes, now)))
        if self.state.is_plan_due:
            self._plan_due.set()

    def _send(self, send: Send) -> int:
        """Send a message and return its bytes.

        Raises LocalProtocolError, PeerGoneError or BackpressureError.
        """
        welcome = self.state.welcome
        frames = encode(send.message, cluster=welcome.cluster, epoch=welcome.epoch)
        frames = join(pad(frames) if welcome.pads else frames)
        if isinstance(send.message, Welcome):
            self._credits.open(send.peer)
        num_bytes = sum(map(len, frames))
        is_answer = isinstance(send.message, _ANSWERS)
        if not self._credits.take(send.peer, num_bytes, is_answer=is_answer):
            raise BackpressureError(send.peer)
        self._transport.send(send.peer, frames)
        return num_bytes

    def say_bye(self) -> None:
        """Send every member a Bye."""
        self._send_all([Send(peer, Bye("coordinator stops")) for peer in self.state.roster.peers()])
