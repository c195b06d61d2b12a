"""The coordinator's shell sends what its state says, in the right order and within the credit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from airdraft.mesh.codec import Envelope, decode, encode, encode_struct
from airdraft.mesh.credits import MAX_ANSWER_BYTES, WINDOW_MESSAGES
from airdraft.mesh.messages import OTHER_PROTOCOL, PROTOCOL_VERSION, Hello, Ping, Pong, Welcome
from airdraft.mesh.padding import pad
from airdraft.nodes.config.settings import CoordinatorConfig, LimitSettings
from airdraft.nodes.coordinator.members.rate_limits import BURST_MESSAGES, cost_of
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.coordinator.service import Coordinator
from airdraft.nodes.messages import (
    MAX_PROMPT_TOKENS,
    MAX_STATUS_BYTES,
    MAX_STREAMS_PER_MESSAGE,
    ChainPart,
    CloseStreamNotice,
    FinishedNotice,
    GuessNotice,
    HoldEntry,
    HoldNotice,
    LeaseEntry,
    LeaseRequest,
    OutputNotice,
    RequestFailedNotice,
    StatusReply,
    StreamFigures,
    TokensNotice,
    notices_of,
)
from airdraft.nodes.scheduler.instructions import Instruction, ToTarget
from airdraft.nodes.scheduler.planning import PlanInput, PlanResult
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.policies.plan import Observation, Plan
from tests.harness.memory_transport import MemoryClient, MemoryHub, MemoryServer
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.shell import Shell, is_welcome

Eventually = Callable[..., "asyncio.Future[None]"]
NODE_A, NODE_B, CLIENT_A, CLIENT_B = b"node-a", b"node-b", b"client-a", b"client-b"


async def members() -> Shell:
    """Two clients and then two nodes have joined."""
    shell = Shell()
    for peer in (CLIENT_A, CLIENT_B):
        await shell.join(peer)
    for peer in (NODE_A, NODE_B):
        await shell.join(peer, "target", encode_struct(make_profile()))
    return shell


async def test_nodes_are_told_before_clients() -> None:
    failed = RequestFailedNotice(1, "internal", "x")
    close = CloseStreamNotice(1, 1)
    sends = [(CLIENT_A, failed), (NODE_A, close), (CLIENT_B, failed), (NODE_B, close)]
    found = (await members()).say([Send(*each) for each in sends])
    assert [peer for peer, _ in found] == [NODE_A, NODE_B, CLIENT_A, CLIENT_B]


async def test_tokens_for_a_client_are_one_message_before_the_ends_of_their_texts() -> None:
    a0, a1, a2 = (TokensNotice(7, n, 5, b"ab", (5, 6)[:n], 4, 1, (), n == 1) for n in range(3))
    b = TokensNotice(8, 0, 0, b"c", (9,))
    over = FinishedNotice(7, 1, 6, "stop", StreamFigures(0, 0, 0, 0, 0, 0, ""))
    sends = [Send(CLIENT_A, m) for m in (a0, a1, over, a2)] + [Send(CLIENT_B, b)]
    (_, joined), *others = (await members()).say(sends)
    assert isinstance(joined, OutputNotice)
    assert list(notices_of(joined)) == [a0, a1, a2]
    assert others == [(CLIENT_A, over), (CLIENT_B, b)]


async def test_tokens_too_many_for_a_message_are_sent_in_many() -> None:
    tokens = [TokensNotice(1, n, 0, b"x" * 8192, (5,)) for n in range(200)]
    told = (await members()).say([Send(CLIENT_A, each) for each in tokens])
    assert [message for _, message in told] == tokens


@pytest.mark.parametrize("pads", [False, True])
async def test_every_message_to_a_member_is_one_frame(pads: bool) -> None:
    """Of two frames, ZeroMQ may drop the second and abort the process that has read the first."""
    shell = Shell(CoordinatorConfig(pad_messages=pads))
    await shell.join(b"node")
    lease = LeaseRequest((LeaseEntry(1, 1, 3, 2),))
    sends = [Send(b"node", lease), Send(b"node", CloseStreamNotice(1, 1))]
    assert shell.say(sends)[0] == (b"node", lease)
    assert [len(frames) for _, frames in shell.frames] == [1, 1, 1]


async def test_a_client_out_of_credit_is_not_told_the_end_of_a_text_that_lacks_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = await members()
    failed = Send(CLIENT_A, RequestFailedNotice(1, "unavailable", "x"))
    gone = [[failed], []]
    monkeypatch.setattr(shell.coordinator.state, "peer_gone", lambda _peer, _now: gone.pop(0))
    tokens = [TokensNotice(1, 0, n, b"x", (5,), 0, 0, ()) for n in range(WINDOW_MESSAGES)]
    finished = FinishedNotice(1, 0, len(tokens), "stop", StreamFigures(0, 0, 0, 0, 0, 0, ""))
    told = shell.say([Send(CLIENT_A, m) for m in (*tokens, finished)])
    # The Welcome took one message's place.
    assert [message for _, message in told] == [*tokens[:-1], failed.message]


async def test_a_member_that_asks_and_does_not_read_is_soon_out_of_credit() -> None:
    shell = await members()
    status = StatusReply(1, b"x" * MAX_STATUS_BYTES)
    told = shell.say([Send(CLIENT_A, status)] * 20)
    assert CLIENT_A not in shell.peers
    assert MAX_ANSWER_BYTES / 2 < len(told) * MAX_STATUS_BYTES < MAX_ANSWER_BYTES


async def test_a_member_that_says_hello_again_has_read_no_more_than_before() -> None:
    shell = await members()
    most = [Send(CLIENT_A, StatusReply(1, b"x" * MAX_STATUS_BYTES))] * 5
    assert len(shell.say(most)) == 5
    assert is_welcome(await shell.join(CLIENT_A))
    assert shell.say(most) == []
    assert CLIENT_A not in shell.peers
    assert is_welcome(await shell.join(CLIENT_A))
    assert len(shell.say(most)) == 5


async def test_what_is_too_large_for_a_message_ends_nothing_else() -> None:
    shell = await members()
    large = Send(CLIENT_A, StatusReply(1, b"x" * (MAX_STATUS_BYTES + 1)))
    assert shell.say([large, Send(CLIENT_A, Pong(1, 0))]) == [(CLIENT_A, Pong(1, 0))]


def looked(shell: Shell, seconds: float) -> None:
    """The coordinator looks at the time as often as it does."""
    for _ in range(round(seconds / 0.05)):
        shell.now += 0.05
        shell.tick()


async def test_a_member_whose_message_is_still_arriving_is_not_silent() -> None:
    shell = Shell(CoordinatorConfig(heartbeat_timeout_s=5.0))
    await shell.join(CLIENT_A)
    shell.quiet_s_of_all = 0.5
    looked(shell, 50.0)
    assert shell.peers == [CLIENT_A]
    shell.quiet_s_of_all = 7.0
    looked(shell, 10.0)
    assert shell.peers == []


@pytest.mark.parametrize("is_read_first", [True, False])
async def test_what_a_coordinator_reads_after_it_stood_still_measures_no_round_trip(
    is_read_first: bool,
) -> None:
    shell, node = await members(), NODE_A.decode()

    async def answered(after_s: float) -> None:
        """The node answers a Ping; the coordinator stands still for longer waits."""
        looked(shell, 0.5)
        pings = [m for peer, m in shell.since(0) if peer == NODE_A and isinstance(m, Ping)]
        shell.now += after_s
        if not is_read_first:
            shell.tick()
        await shell.hear(NODE_A, Pong(pings[-1].seq, 0))

    for after_s in (0.01, 0.01, 9.0, 0.01):
        await answered(after_s)
    record = shell.coordinator.state.roster.node(node)
    assert record is not None
    assert record.measured_link().rtt_s < 1.0
    assert record.heartbeat.rtt_s is not None
    assert record.heartbeat.rtt_s < 1.0


async def test_a_coordinator_that_stood_still_takes_nobody_for_silent() -> None:
    shell = Shell(CoordinatorConfig(heartbeat_timeout_s=5.0))
    await shell.join(CLIENT_A)
    shell.tick()
    shell.now += 60.0
    looked(shell, 1.0)
    assert shell.peers == [CLIENT_A]
    # Silence is noticed none the less.
    looked(shell, 10.0)
    assert shell.peers == []


@pytest.mark.parametrize("tag", [1, 8], ids=["Hello", "EnrolRequest"])
@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_a_peer_of_another_protocol_is_told_so_in_its_own_version(
    version: int, tag: int, caplog: pytest.LogCaptureFixture
) -> None:
    shell = Shell()
    # Of a later version nothing is known but how its Hello and its EnrolRequest begin.
    await shell.hear_frames(CLIENT_A, [bytes([version, 0x9F, tag]) + b"what this one cannot know"])
    ((_, (frame,)),) = shell.frames
    # As the other side reads it, whose version this is.
    assert frame[0] == version
    refusal = decode([bytes([PROTOCOL_VERSION]) + frame[1:]]).message
    assert refusal.code == OTHER_PROTOCOL
    reason = f"protocol {version} differs from the coordinator's {PROTOCOL_VERSION}"
    assert refusal.reason.startswith(reason)
    (line,) = [r.getMessage() for r in caplog.records]
    assert reason in line
    assert shell.coordinator.state.reporting.num_dropped == 1


async def test_other_messages_of_another_protocol_are_not_answered() -> None:
    shell = Shell()
    for frame in (bytes([PROTOCOL_VERSION + 1, 0x9F, 4]), b"garbage"):
        await shell.hear_frames(CLIENT_A, [frame])
    assert shell.frames == []
    assert is_welcome(await shell.join(CLIENT_A))
    assert shell.coordinator.state.reporting.num_stale == 2


async def test_of_what_is_sent_without_a_membership_only_the_wish_to_join_is_decoded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Decoding a request of 5 KB takes milliseconds."""
    shell, malformed = await members(), [bytes([PROTOCOL_VERSION, 0x9F, 32]) + b"malformed"]
    for sent in (malformed, pad(malformed), [b"\xff"], []):
        await shell.hear_frames(b"stranger", sent)
    assert caplog.text == ""
    await shell.hear_frames(CLIENT_A, malformed)
    assert CLIENT_A.hex() in caplog.text


async def test_a_member_that_floods_is_named_in_the_log_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shell = Shell()
    await shell.join(CLIENT_A)
    for number in range(round(BURST_MESSAGES / cost_of("client")) + 9):
        await shell.hear(CLIENT_A, Ping(number, 0))
    assert shell.peers == []
    (line,) = [r.getMessage() for r in caplog.records]
    assert line == (
        "messages of client client-a are ignored from now on: it sends too many messages"
    )


async def test_notices_of_many_parts_count_for_more_whichever_connection_has_them() -> None:
    """256 parts without a guess take the coordinator as long as 27 notices of one part. What is
    too much is dropped, and the draft nodes stay."""
    shell, drafts = Shell(), (b"draft-a", b"draft-b", b"draft-c")
    for peer in drafts:
        # The last one has a key of its own.
        shell.keys[peer] = "other" if peer == b"draft-c" else "key"
        await shell.join(peer, "draft", encode_struct(make_profile()))
    empty = tuple(ChainPart(1, 0, 0, 0, b"") for _ in range(MAX_STREAMS_PER_MESSAGE))
    reporting = shell.coordinator.state.reporting
    num_heard = 0
    while not reporting.num_dropped and num_heard < BURST_MESSAGES / 8:
        await shell.hear(drafts[num_heard % 2], GuessNotice(empty, ()))
        num_heard += 1
    assert num_heard < BURST_MESSAGES / 8
    await shell.hear(b"draft-c", GuessNotice(empty, ()))
    assert reporting.num_dropped == 1
    assert set(drafts) <= set(shell.peers)


@pytest.mark.slow
async def test_a_client_may_send_the_longest_prompts_that_it_may_have_under_way_at_once() -> None:
    shell = Shell()
    await shell.join(CLIENT_A)
    state, submit = shell.coordinator.state.welcome, make_submit(1)
    longest = replace(submit, prompt_token_ids=tuple(range(MAX_PROMPT_TOKENS)))
    frames = encode(longest, cluster=state.cluster, epoch=state.epoch)
    max_requests = LimitSettings().max_requests
    for _ in range(max_requests):
        await shell.hear_frames(CLIENT_A, frames)
    assert shell.peers == [CLIENT_A]
    for _ in range(max_requests):
        await shell.hear_frames(CLIENT_A, frames)
    assert shell.peers == []


async def test_epochs_do_not_come_from_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    first, second = (Shell().coordinator.state.welcome.epoch for _ in range(2))
    assert first != second
    assert 0 < first < 2**63


# -- with its tasks --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(hub: MemoryHub) -> AsyncIterator[tuple[Coordinator, MemoryServer]]:
    """A coordinator that runs, and takes nobody for silent."""
    with contextlib.closing(hub.server()) as server:
        config = CoordinatorConfig(heartbeat_interval_s=60.0, heartbeat_timeout_s=600.0)
        coordinator = Coordinator(server, config)
        task = asyncio.create_task(coordinator.run())
        try:
            yield coordinator, server
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def hear(client: MemoryClient, kind: type) -> Envelope:
    while True:
        envelope = decode(await client.recv())
        if isinstance(envelope.message, kind):
            return envelope


async def join(
    hub: MemoryHub, name: str, role: str = "client", profile: bytes = b""
) -> tuple[MemoryClient, Envelope]:
    client = hub.client()
    client.send(encode(Hello(name, role, 1, PROTOCOL_VERSION, profile)))
    return client, await hear(client, Welcome)


async def test_a_member_that_closes_its_connection_is_gone_at_once(eventually: Eventually) -> None:
    hub = MemoryHub()
    async with serving(hub) as (coordinator, server):
        first, _ = await join(hub, "a")
        second, _ = await join(hub, "b")
        (gone, peer) = coordinator.state.roster.peers()
        first.close()
        await eventually(lambda: gone not in coordinator.state.roster.peers())
        # What closed was of no member, or is there again: one more Ping, and nobody leaves.
        server.lose(b"nobody")
        server.lose(peer)
        first_seq = (await hear(second, Ping)).message.seq
        assert (await hear(second, Ping)).message.seq > first_seq
        assert coordinator.state.roster.peers() == [peer]


class SlowPolicy:
    """Plans when it is let; num_begun: of plans."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.may_go_on = threading.Event()

    def __call__(self, observation: Observation) -> Plan:
        self.num_begun += 1
        assert self.may_go_on.wait(10.0)
        return Plan()


@pytest.fixture
def slow() -> Iterator[SlowPolicy]:
    """Whatever happens, no thread waits longer than its test."""
    policy = SlowPolicy()
    yield policy
    policy.may_go_on.set()


async def test_messages_are_dealt_with_while_a_plan_is_made(
    slow: SlowPolicy, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = MemoryHub()
    async with serving(hub) as (coordinator, _):
        target, welcome = await join(hub, "t", "target", encode_struct(make_profile()))
        client, _ = await join(hub, "a")
        ping = encode(Ping(0, 0), cluster=welcome.message.cluster, epoch=welcome.message.epoch)

        def begin_plan(scheduler: Scheduler, _now: float) -> PlanInput:
            """Each tick finds that one is due."""
            scheduler.is_plan_due = False
            return PlanInput(Observation(()), slow)

        monkeypatch.setattr("airdraft.nodes.coordinator.state.begin_plan", begin_plan)
        await eventually(lambda: slow.num_begun == 1)
        for _ in range(3):
            client.send(ping)
            await hear(client, Pong)
        # One that is due meanwhile waits for this one, whatever comes in.
        await eventually(lambda: coordinator.state.is_plan_due)
        client.send(ping)
        await hear(client, Pong)
        assert slow.num_begun == 1
        target.close()
        await eventually(lambda: len(coordinator.state.roster.peers()) == 1)
        slow.may_go_on.set()
        # Its target has left: the plan is for nobody, and the coordinator goes on.
        await eventually(lambda: not coordinator.state.is_plan_due)
        client.send(ping)
        await hear(client, Pong)


async def test_a_plan_that_was_made_is_put_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MemoryHub()
    hold, planned = HoldNotice((HoldEntry(1, 1, 0, 2, 500),)), Plan(plain=(7,))

    def begin_plan(scheduler: Scheduler, _now: float) -> PlanInput:
        scheduler.is_plan_due = False
        return PlanInput(Observation(()), lambda _observation: planned)

    def take_plan(_scheduler: Scheduler, made: PlanResult) -> list[Instruction]:
        assert made.grouped == planned
        return [ToTarget(hold)]

    monkeypatch.setattr("airdraft.nodes.coordinator.state.begin_plan", begin_plan)
    monkeypatch.setattr("airdraft.nodes.coordinator.state.take_plan", take_plan)
    async with serving(hub):
        target, _ = await join(hub, "t", "target", encode_struct(make_profile()))
        assert (await hear(target, HoldNotice)).message == hold
